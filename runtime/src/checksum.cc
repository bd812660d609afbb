#include "checksum.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

#include "cpu.h"
#include "error.h"
#include "sha256.h"

namespace pocketformer {
namespace {

constexpr std::size_t kThreads = 4;    // more gain little: by then the memory is the limit

struct Job {
  const std::string* name;
  const MappedFile* file;
  std::uint64_t begin;
  const std::string* sha256;

  bool Fits() const {
    const std::size_t size = std::min<std::uint64_t>(kChunk, file->size() - begin);
    return Sha256Hex(file->data() + begin, size) == *sha256;
  }
};

}  // namespace

void CheckChunks(const Files& files, const FileRecords& records) {
  std::vector<Job> jobs;
  for (const auto& [name, file] : files) {
    const std::vector<std::string>& chunks = records.at(name).chunks;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      jobs.push_back({&name, file.get(), i * kChunk, &chunks[i]});
    }
  }
  std::atomic<std::size_t> next{0}, changed{jobs.size()};
  const auto work = [&] {
    for (std::size_t i; (i = next++) < jobs.size();) {
      if (!jobs[i].Fits()) changed = std::min<std::size_t>(changed, i);
    }
  };
  std::vector<std::thread> helpers;
  try {
    while (helpers.size() + 1 < std::min({kThreads, UsableCpus().size(), jobs.size()})) {
      helpers.emplace_back(work);
    }
  } catch (const std::system_error&) {
    // No more threads are to be had: those that there are do the work.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (changed < jobs.size()) {
    throw Error(*jobs[changed].name +
                " was changed: its bytes do not match the checksum in the manifest");
  }
}

}  // namespace pocketformer
