#include "device/home.h"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "device/folder.h"
#include "device/store.h"
#include "error.h"

namespace pocketformer {
namespace {

std::string MakeTemporary() {
  const char* chosen = std::getenv("TMPDIR");
#if defined(__ANDROID__)
  const std::string above = chosen ? chosen : "/data/local/tmp";
#else
  const std::string above = chosen ? chosen : "/tmp";
#endif
  std::string path = above + "/pocketformer_device-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) FailWriting(errno, "a temporary folder", above);
  return path;
}

// The same folder without links in its path, which a session's library must be found below.
std::string Resolved(const std::string& path) {
  char resolved[PATH_MAX];
  if (realpath(path.c_str(), resolved) != nullptr) return resolved;
  throw Error("cannot use the folder " + path + ": " + std::strerror(errno));
}

// What lies where sessions will is removed without a question: it must be this program's own.
void RefuseForeign(const std::string& path) {
  if (access((path + "/lock").c_str(), F_OK) == 0) return;
  if (access((path + "/sessions").c_str(), F_OK) != 0) return;
  throw Error(path + "/sessions is not of this program's making; choose another --folder");
}

}  // namespace

Home::Home(const std::string& folder) : temporary_(folder.empty()) {
  if (!temporary_) MakeFolder(folder);
  path_ = Resolved(temporary_ ? MakeTemporary() : folder);
  RefuseShared(path_);
  RefuseForeign(path_);
  lock_ = Descriptor(open((path_ + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock_) FailWriting(errno, "its lock", path_);
  if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    throw Error("another pocketformer_device is at work in " + path_ + "; choose another --folder");
  }
  MakeFolder(files());
  RemoveTree(path_ + "/sessions");
  MakeFolder(path_ + "/sessions");
  Store::CleanAll(files());
}

Home::~Home() {
  if (!lock_) return;
  RemoveTree(temporary_ ? path_ : path_ + "/sessions");
}

std::string Home::WorkOf(std::int64_t session) const {
  return path_ + "/sessions/" + std::to_string(session);
}

void Home::Clean(std::int64_t session, int pid) const {
  RemoveTree(WorkOf(session));
  Store::Clean(files(), pid);
}

void Home::LetGo() { lock_ = Descriptor(); }

}  // namespace pocketformer
