// Files of a bundle: regular ones in its folder, never what a link leads to.
#ifndef POCKETFORMER_FILES_H_
#define POCKETFORMER_FILES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace pocketformer {

// The bytes of a file, read from the disk when they are touched.
class MappedFile {
 public:
  // Throws Error for a file that is missing, a link, no regular file, or not of `size` bytes.
  static std::shared_ptr<const MappedFile> Open(const std::string& path, std::uint64_t size);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  MappedFile(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  const std::uint8_t* data_;
  std::size_t size_;
};

// What tells one file from every other, also from one that later takes its place.
struct FileIdentity {
  std::uint64_t device, inode;
  std::int64_t changed_ns;

  auto operator<=>(const FileIdentity&) const = default;
};

FileIdentity IdentityOf(const std::string& path);

// The text of the bundle's manifest; `folder` may also turn out to be none.
std::string ReadManifest(const std::string& folder, std::size_t largest);

// A file of /proc or /sys as text, "" where it cannot be read.
std::string ReadSystemFile(const std::string& path);

// Another path to the same file, a different one for each number of `steps`. glibc compares paths
// before it looks at files, and takes a path that it knows for the library that it has loaded.
std::string Detour(const std::string& path, int steps);

}  // namespace pocketformer

#endif  // POCKETFORMER_FILES_H_
