#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64    // disks and files past 2 GB on 32-bit ARM
#endif
#include "device/folder.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "error.h"
#include "files.h"
#include "text.h"

namespace pocketformer {
namespace {

constexpr std::size_t kLongestName = 200;

int RemoveOne(const char* path, const struct stat*, int, struct FTW*) {
  std::remove(path);
  return 0;    // go on: what can be removed shall be
}

}  // namespace

const std::string& PlainName(const std::string& name) {
  const auto is_odd = [](char letter) {
    return letter == '/' || static_cast<unsigned char>(letter) < ' ' || letter == 0x7f;
  };
  if (name.empty() || name.size() > kLongestName || name[0] == '.' ||
      std::any_of(name.begin(), name.end(), is_odd)) {
    throw Error(Quoted(name.substr(0, kLongestName)) +
                " is no plain file name; without '/' and a dot in front it stays in the folder of "
                "this session");
  }
  return name;
}

std::int64_t FreeBytes(const std::string& folder) {
  struct statvfs disk;
  if (statvfs(folder.c_str(), &disk) != 0) return -1;
  return static_cast<std::int64_t>(disk.f_bavail) * static_cast<std::int64_t>(disk.f_frsize);
}

void FailWriting(int code, const std::string& what, const std::string& folder) {
  if (code == ENOSPC || code == EDQUOT || code == EFBIG) {
    throw Error("there is no space left on the device for " + what + ": " +
                std::to_string(FreeBytes(folder)) + " bytes are free in " + folder);
  }
  throw Error("the device cannot write " + what + " to " + folder + ": " + std::strerror(code));
}

void MakeFolder(const std::string& folder) {
  for (std::size_t end = 1; end != std::string::npos;) {
    end = folder.find('/', end + 1);
    const std::string part = folder.substr(0, end);
    if (mkdir(part.c_str(), 0700) == 0 || errno == EEXIST) continue;
    // Above a user's own folders there are such that exist and yet cannot be made: EROFS, EACCES.
    const int code = errno;
    if (access(part.c_str(), F_OK) != 0) {
      const std::size_t last = part.rfind('/');
      FailWriting(code, "the folder " + part.substr(last + 1),
                  last == std::string::npos ? "." : part.substr(0, std::max<std::size_t>(last, 1)));
    }
  }
}

void RefuseShared(const std::string& folder) {
  struct stat status;
  if (stat(folder.c_str(), &status) != 0) FailWriting(errno, "files", folder);
  const uid_t self = geteuid();
  const bool anothers = self != 0 && status.st_uid != self && status.st_uid != 0;
  if (anothers || (status.st_mode & S_IWOTH) != 0) {
    throw Error("other users can write to " + folder +
                ", and so run code as this one; choose a --folder of your own");
  }
}

void RemoveTree(const std::string& path) {
  constexpr int kOpenFolders = 8;
  nftw(path.c_str(), RemoveOne, kOpenFolders, FTW_DEPTH | FTW_PHYS);
}

NewFile::NewFile(std::string folder, const std::string& unfinished_name, std::string what)
    : folder_(std::move(folder)), part_(folder_ + "/" + unfinished_name), what_(std::move(what)) {
  unlink(part_.c_str());
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  file_ = Descriptor(open(part_.c_str(), kFlags, 0600));
  if (!file_) FailWriting(errno, what_, folder_);
}

NewFile::~NewFile() {
  if (file_) unlink(part_.c_str());
}

void NewFile::Write(std::string_view data) {
  while (!data.empty()) {
    const ssize_t count = write(file_.get(), data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) FailWriting(errno, what_, folder_);
    data.remove_prefix(count);
  }
}

void NewFile::Publish(const std::string& name, bool for_good) {
  if (for_good) {
    fchmod(file_.get(), 0400);    // sessions share it
    if (fsync(file_.get()) != 0) FailWriting(errno, what_, folder_);
  }
  if (std::rename(part_.c_str(), (folder_ + "/" + name).c_str()) != 0) {
    FailWriting(errno, what_, folder_);
  }
  file_ = Descriptor();
}

void CopyFile(const std::string& from, const std::string& folder, const std::string& name) {
  const Descriptor source(open(from.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!source) throw Error("the device cannot read " + from + ": " + std::strerror(errno));
  NewFile copy(folder, "." + name + ".part", name);
  std::string piece(1 << 20, '\0');
  while (const ssize_t count = read(source.get(), piece.data(), piece.size())) {
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Error("the device cannot read " + from + ": " + std::strerror(errno));
    copy.Write(std::string_view(piece).substr(0, count));
  }
  copy.Publish(name);
}

std::string ReadFile(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  struct stat status;
  if (lstat(path.c_str(), &status) != 0) throw Error("this session has no file " + Quoted(name));
  if (!S_ISREG(status.st_mode)) throw Error(Quoted(name) + " is no regular file");
  const auto file = MappedFile::Open(path, status.st_size);
  return std::string(reinterpret_cast<const char*>(file->data()), file->size());
}

}  // namespace pocketformer
