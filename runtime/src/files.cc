#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64    // files past 2 GB on 32-bit ARM
#endif
#include "files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "descriptor.h"
#include "error.h"

namespace pocketformer {
namespace {

// Opens a regular file, and nothing that a link leads to or that would block.
int OpenRegular(const std::string& path, struct stat* status) {
  const int handle = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (handle < 0 && errno == ENOENT) throw Error(path + " is missing");
  if (handle < 0) {
    throw Error("cannot read " + path + ": " +
                (errno == ELOOP ? "it is a link" : std::strerror(errno)));
  }
  if (fstat(handle, status) == 0 && S_ISREG(status->st_mode)) return handle;
  close(handle);
  throw Error("cannot read " + path + ": it is no regular file");
}

// Up to `most` bytes. False where the system refuses, which `errno` then explains.
bool ReadAll(int handle, std::size_t most, std::string* text) {
  char piece[1 << 14];
  while (text->size() < most) {
    const ssize_t count = read(handle, piece, std::min(sizeof piece, most - text->size()));
    if (count == 0) return true;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    text->append(piece, count);
  }
  return true;
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::Open(const std::string& path, std::uint64_t size) {
  struct stat status;
  const Descriptor file(OpenRegular(path, &status));
  const auto found = static_cast<std::uint64_t>(status.st_size);
  if (found != size) {
    throw Error(path + (found < size ? " is truncated: " : " is too long: ") +
                std::to_string(found) + " bytes, not " + std::to_string(size));
  }
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile(nullptr, 0));
  if (size > SIZE_MAX) throw Error(path + " is too large for a 32-bit process");
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) throw Error("cannot map " + path + ": " + std::strerror(errno));
  return std::shared_ptr<const MappedFile>(
      new MappedFile(static_cast<const std::uint8_t*>(data), size));
}

MappedFile::~MappedFile() {
  if (size_ > 0) munmap(const_cast<std::uint8_t*>(data_), size_);
}

FileIdentity IdentityOf(const std::string& path) {
  struct stat status;
  const Descriptor file(OpenRegular(path, &status));
  return {static_cast<std::uint64_t>(status.st_dev), static_cast<std::uint64_t>(status.st_ino),
          status.st_mtim.tv_sec * std::int64_t{1000000000} + status.st_mtim.tv_nsec};
}

std::string ReadManifest(const std::string& folder, std::size_t largest) {
  struct stat status;
  if (stat(folder.c_str(), &status) != 0) throw Error(folder + " does not exist");
  if (!S_ISDIR(status.st_mode)) throw Error(folder + " is a file, not the folder of a bundle");
  const std::string path = folder + "/manifest.json";
  if (lstat(path.c_str(), &status) != 0 && errno == ENOENT) {
    throw Error(folder + " is no bundle: it has no manifest.json");
  }
  const Descriptor file(OpenRegular(path, &status));
  std::string text;
  if (!ReadAll(file.get(), largest + 1, &text)) {
    throw Error("cannot read " + path + ": " + std::strerror(errno));
  }
  if (text.size() <= largest) return text;
  throw Error(path + " has " + std::to_string(status.st_size) + " bytes, too many for a manifest");
}

std::string ReadSystemFile(const std::string& path) {
  constexpr std::size_t kLargest = 1 << 20;
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!file || !ReadAll(file.get(), kLargest, &text)) return "";
  return text;
}

std::string Detour(const std::string& path, int steps) {
  constexpr int kMost = 100;      // a path has a greatest length
  std::string dots;
  for (int i = steps % kMost; i > 0; --i) dots += "./";
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return "./" + dots + path;
  return path.substr(0, slash + 1) + dots + path.substr(slash + 1);
}

}  // namespace pocketformer
