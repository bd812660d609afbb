// Checksums of a bundle's files, compared by several threads.
#ifndef POCKETFORMER_CHECKSUM_H_
#define POCKETFORMER_CHECKSUM_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "files.h"

namespace pocketformer {

constexpr std::uint64_t kChunk = 8 << 20;    // bytes under one checksum

// A file's size, and the sha256 of every kChunk of its bytes.
struct FileRecord {
  std::uint64_t bytes;
  std::vector<std::string> chunks;
};

using Files = std::map<std::string, std::shared_ptr<const MappedFile>>;
using FileRecords = std::map<std::string, FileRecord>;

// Throws Error that names the first file whose bytes were changed. `files` have the sizes of their
// records.
void CheckChunks(const Files& files, const FileRecords& records);

}  // namespace pocketformer

#endif  // POCKETFORMER_CHECKSUM_H_
