// The folder of one session, made when something is first put into it.
#ifndef POCKETFORMER_DEVICE_WORK_FOLDER_H_
#define POCKETFORMER_DEVICE_WORK_FOLDER_H_

#include <string>
#include <utility>

#include "device/folder.h"

namespace pocketformer {

class WorkFolder {
 public:
  explicit WorkFolder(std::string path) : path_(std::move(path)) {}

  // Throws Error where it cannot be made: then the disk is full.
  const std::string& Path() {
    if (!made_) MakeFolder(path_);
    made_ = true;
    return path_;
  }

 private:
  std::string path_;
  bool made_ = false;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_WORK_FOLDER_H_
