// The store: uploaded files by their checksums, kept from one session to the next.
#ifndef POCKETFORMER_DEVICE_STORE_H_
#define POCKETFORMER_DEVICE_STORE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "device/folder.h"
#include "sha256.h"

namespace pocketformer {

// Returns `sha256` if it is 64 hexadecimal digits, a plain file name as well. Throws Error.
const std::string& CheckedSha256(const std::string& sha256);

// All methods throw Error, whose text is one sentence for the client.
class Store {
 public:
  explicit Store(std::string folder);

  bool Has(const std::string& sha256, std::int64_t size) const;

  // An upload: Begin, Append for all pieces in turn, Commit. A fault removes what had arrived.
  void Begin(const std::string& sha256, std::int64_t size);
  void Append(const std::string& sha256, std::string_view data);
  void Commit(const std::string& sha256);

  // Puts the file into `folder` as `name`.
  void Place(const std::string& sha256, const std::string& folder, const std::string& name) const;

  // Removes the file if a disk has damaged it, so that it is uploaded again.
  void DropIfDamaged(const std::string& sha256) const;

  // Removes the file, which a later session would not ask for again; it may be absent.
  void Forget(const std::string& sha256) const;

  // Removes what a process left of its uploads.
  static void Clean(const std::string& folder, int pid);
  // Removes what all processes left.
  static void CleanAll(const std::string& folder);

 private:
  struct Upload {
    NewFile file;
    std::int64_t size, arrived;
    Sha256 checksum;
  };
  Upload& Find(const std::string& sha256);

  std::string folder_;
  std::map<std::string, Upload> uploads_;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_STORE_H_
