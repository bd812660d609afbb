// Streams that carry bytes as base64 text; the whole text is held in memory.
#ifndef TVM_SUPPORT_BASE64_H_
#define TVM_SUPPORT_BASE64_H_

#include <tvm/ffi/extra/base64.h>
#include <tvm/support/io.h>

#include <optional>
#include <string>

#include "bytes_io.h"

namespace tvm {
namespace support {

class Base64InStream : public Stream {
 public:
  explicit Base64InStream(Stream* text) : text_(text) {}

  // Decodes the text; to be called before the first Read.
  void InitPosition() {
    std::string text;
    char block[4096];
    while (std::size_t size = text_->Read(static_cast<void*>(block), sizeof(block))) {
      text.append(block, size);
    }
    bytes_ = ffi::Base64Decode(ffi::String(text));
    decoded_.emplace(bytes_);
  }

  using Stream::Read;
  using Stream::Write;
  std::size_t Read(void* data, std::size_t size) final { return decoded_->Read(data, size); }
  std::size_t Write(const void*, std::size_t) final { return 0; }

 private:
  Stream* text_;
  ffi::Bytes bytes_;
  std::optional<BytesInStream> decoded_;
};

class Base64OutStream : public Stream {
 public:
  explicit Base64OutStream(Stream* text) : text_(text) {}

  // Writes the text; to be called after the last Write.
  void Finish() {
    ffi::String text = ffi::Base64Encode(ffi::Bytes(bytes_));
    text_->Write(text.data(), text.size());
  }

  using Stream::Read;
  using Stream::Write;
  std::size_t Read(void*, std::size_t) final { return 0; }
  std::size_t Write(const void* data, std::size_t size) final {
    bytes_.append(static_cast<const char*>(data), size);
    return size;
  }

 private:
  Stream* text_;
  std::string bytes_;
};

}  // namespace support
}  // namespace tvm

#endif  // TVM_SUPPORT_BASE64_H_
