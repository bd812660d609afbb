// Streams over bytes in memory.
#ifndef TVM_SUPPORT_BYTES_IO_H_
#define TVM_SUPPORT_BYTES_IO_H_

#include <tvm/support/io.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace tvm {
namespace support {

// Reads what somebody else keeps alive: a std::string or ffi::Bytes.
class BytesInStream : public Stream {
 public:
  template <typename Bytes>
  explicit BytesInStream(const Bytes& bytes) : next_(bytes.data()), left_(bytes.size()) {}

  using Stream::Read;
  using Stream::Write;
  std::size_t Read(void* data, std::size_t size) final {
    size = std::min(size, left_);
    if (size != 0) std::memcpy(data, next_, size);
    next_ += size;
    left_ -= size;
    return size;
  }
  std::size_t Write(const void*, std::size_t) final { return 0; }

 private:
  const char* next_;
  std::size_t left_;
};

// Appends to a string.
class BytesOutStream : public Stream {
 public:
  explicit BytesOutStream(std::string* bytes) : bytes_(bytes) {}

  using Stream::Read;
  using Stream::Write;
  std::size_t Read(void*, std::size_t) final { return 0; }
  std::size_t Write(const void* data, std::size_t size) final {
    bytes_->append(static_cast<const char*>(data), size);
    return size;
  }

 private:
  std::string* bytes_;
};

}  // namespace support
}  // namespace tvm

#endif  // TVM_SUPPORT_BYTES_IO_H_
