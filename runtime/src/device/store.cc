#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64    // files past 2 GB on 32-bit ARM
#endif
#include "device/store.h"

#include <algorithm>
#include <cerrno>
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "files.h"
#include "text.h"

namespace pocketformer {
namespace {

std::string Shown(const std::string& sha256) { return "the file " + sha256.substr(0, 12) + "..."; }

// Removes the unfinished files in `folder` whose names end in `ending`.
void RemoveParts(const std::string& folder, const std::string& ending) {
  DIR* opened = opendir(folder.c_str());
  if (opened == nullptr) return;
  while (const dirent* entry = readdir(opened)) {
    const std::string name = entry->d_name;
    const bool ends = name.size() > ending.size() &&
                      name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
    if (ends && name[0] == '.') unlink((folder + "/" + name).c_str());
  }
  closedir(opened);
}

}  // namespace

const std::string& CheckedSha256(const std::string& sha256) {
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (sha256.size() == 64 && std::all_of(sha256.begin(), sha256.end(), is_digit)) return sha256;
  throw Error(Quoted(sha256.substr(0, 100)) + " is no sha256: one is 64 hexadecimal digits");
}

Store::Store(std::string folder) : folder_(std::move(folder)) {}

bool Store::Has(const std::string& sha256, std::int64_t size) const {
  struct stat status;
  return lstat((folder_ + "/" + CheckedSha256(sha256)).c_str(), &status) == 0 &&
         S_ISREG(status.st_mode) && status.st_size == size;
}

void Store::Begin(const std::string& sha256, std::int64_t size) {
  uploads_.erase(CheckedSha256(sha256));
  if (size < 0) throw Error(Shown(sha256) + " cannot have " + std::to_string(size) + " bytes");
  const std::string what = std::to_string(size) + " bytes of " + Shown(sha256);
  const std::int64_t free = FreeBytes(folder_);
  if (free >= 0 && size > free) FailWriting(ENOSPC, what, folder_);
  const std::string part = "." + sha256 + "." + std::to_string(getpid()) + ".part";
  uploads_.emplace(sha256, Upload{NewFile(folder_, part, what), size, 0, Sha256()});
}

Store::Upload& Store::Find(const std::string& sha256) {
  const auto found = uploads_.find(CheckedSha256(sha256));
  if (found != uploads_.end()) return found->second;
  throw Error("no upload of " + Shown(sha256) + " has begun, or it has failed");
}

void Store::Append(const std::string& sha256, std::string_view data) {
  Upload& upload = Find(sha256);
  try {
    upload.arrived += static_cast<std::int64_t>(data.size());
    if (upload.arrived > upload.size) {
      throw Error("more than the " + std::to_string(upload.size) + " bytes of " + Shown(sha256) +
                  " arrived; it was damaged in transit");
    }
    upload.checksum.Update(data.data(), data.size());
    upload.file.Write(data);
  } catch (...) {
    uploads_.erase(sha256);
    throw;
  }
}

void Store::Commit(const std::string& sha256) {
  Upload upload = std::move(Find(sha256));
  uploads_.erase(sha256);
  if (upload.arrived != upload.size) {
    throw Error("only " + std::to_string(upload.arrived) + " of the " +
                std::to_string(upload.size) + " bytes of " + Shown(sha256) +
                " arrived; it was damaged in transit");
  }
  if (upload.checksum.Hex() != sha256) {
    throw Error(Shown(sha256) + " was damaged in transit: its checksum is another; send it again");
  }
  upload.file.Publish(sha256, true);
}

void Store::Place(const std::string& sha256, const std::string& folder,
                  const std::string& name) const {
  const std::string path = folder_ + "/" + CheckedSha256(sha256);
  struct stat status;
  if (lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    throw Error("the device does not hold " + name + "; upload " + Shown(sha256) + " first");
  }
  // Android forbids links to its programs' users, some disks know none.
  if (link(path.c_str(), (folder + "/" + name).c_str()) != 0) CopyFile(path, folder, name);
}

void Store::Forget(const std::string& sha256) const {
  unlink((folder_ + "/" + CheckedSha256(sha256)).c_str());
}

void Store::DropIfDamaged(const std::string& sha256) const {
  const std::string path = folder_ + "/" + CheckedSha256(sha256);
  struct stat status;
  if (lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return;
  const auto file = MappedFile::Open(path, status.st_size);
  if (Sha256Hex(file->data(), file->size()) != sha256) unlink(path.c_str());
}

void Store::Clean(const std::string& folder, int pid) {
  RemoveParts(folder, "." + std::to_string(pid) + ".part");
}

void Store::CleanAll(const std::string& folder) { RemoveParts(folder, ".part"); }

}  // namespace pocketformer
