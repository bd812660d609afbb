// The server's folder: names that stay inside it, files that are whole or not there.
#ifndef POCKETFORMER_DEVICE_FOLDER_H_
#define POCKETFORMER_DEVICE_FOLDER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "device/net.h"

namespace pocketformer {

// Returns `name` if it can only mean a file in the folder that it is put behind. Throws Error.
const std::string& PlainName(const std::string& name);

// Bytes that can still be written below `folder`, -1 where the system does not tell.
std::int64_t FreeBytes(const std::string& folder);

// Throws the Error that says why `what` could not be written to `folder`; `code` is an errno.
[[noreturn]] void FailWriting(int code, const std::string& what, const std::string& folder);

// Makes `folder` and those above it, for this user only. Throws Error.
void MakeFolder(const std::string& folder);

// Throws Error if other users can put files into `folder`, where a session's libraries are loaded.
void RefuseShared(const std::string& folder);

// Removes a file or a folder with all that is in it; follows no links, needs nothing to be there.
void RemoveTree(const std::string& path);

// A file that nobody sees under its own name before all of it is there; `what` names it in errors.
class NewFile {
 public:
  // Throws Error.
  NewFile(std::string folder, const std::string& unfinished_name, std::string what);
  NewFile(NewFile&&) = default;
  ~NewFile();    // removes what was not published

  void Write(std::string_view data);    // throws Error
  // Gives it its name. With `for_good` it is on the disk then, and read-only. Throws Error.
  void Publish(const std::string& name, bool for_good = false);

 private:
  std::string folder_, part_, what_;
  Descriptor file_;
};

// Copies the file `from`. Throws Error.
void CopyFile(const std::string& from, const std::string& folder, const std::string& name);

// The whole file. Throws Error.
std::string ReadFile(const std::string& folder, const std::string& name);

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_FOLDER_H_
