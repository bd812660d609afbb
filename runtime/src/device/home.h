// Where a server keeps its files: its store, and the work folders of its sessions.
#ifndef POCKETFORMER_DEVICE_HOME_H_
#define POCKETFORMER_DEVICE_HOME_H_

#include <cstdint>
#include <string>

#include "device/net.h"

namespace pocketformer {

class Home {
 public:
  // Makes `folder`, or a temporary one for "", and removes what a server before left half done.
  // Throws Error, also where another server is at work in it.
  explicit Home(const std::string& folder);
  ~Home();

  const std::string& path() const { return path_; }
  std::string files() const { return path_ + "/files"; }
  std::string WorkOf(std::int64_t session) const;
  // Removes what a session has left.
  void Clean(std::int64_t session, int pid) const;

  // For a session's process, which has no part in this any more.
  void LetGo();

 private:
  std::string path_;
  Descriptor lock_;
  bool temporary_;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_HOME_H_
