// A queue of bytes. It lies in one piece, so that a socket takes or fills it with one call.
#ifndef TVM_SUPPORT_RING_BUFFER_H_
#define TVM_SUPPORT_RING_BUFFER_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>

namespace tvm {
namespace support {

class RingBuffer {
 public:
  std::size_t bytes_available() const { return end_ - begin_; }

  // Makes room for `total` bytes, those that are queued already included.
  void Reserve(std::size_t total) {
    if (begin_ + total <= size_) return;
    if (total > size_ / 2) {
      const std::size_t size = std::max({total, 2 * size_, kSmallest});
      std::unique_ptr<char[]> moved(new char[size]);
      if (bytes_available() != 0) std::memcpy(moved.get(), data_.get() + begin_, bytes_available());
      data_ = std::move(moved);
      size_ = size;
    } else {
      std::memmove(data_.get(), data_.get() + begin_, bytes_available());
    }
    end_ -= begin_;
    begin_ = 0;
  }

  // `size` is at most bytes_available().
  void Read(void* data, std::size_t size) {
    if (size != 0) std::memcpy(data, data_.get() + begin_, size);
    Drop(size);
  }
  void Write(const void* data, std::size_t size) {
    Reserve(bytes_available() + size);
    if (size != 0) std::memcpy(data_.get() + end_, data, size);
    end_ += size;
  }

  // take(bytes, most) returns how many of the first `most` bytes it took.
  template <typename Take>
  std::size_t ReadWithCallback(Take take, std::size_t most) {
    const std::size_t taken = take(data_.get() + begin_, std::min(most, bytes_available()));
    Drop(taken);
    return taken;
  }
  // give(room, most) returns how many bytes it put there.
  template <typename Give>
  std::size_t WriteWithCallback(Give give, std::size_t most) {
    Reserve(bytes_available() + most);
    const std::size_t given = give(data_.get() + end_, most);
    end_ += given;
    return given;
  }

 private:
  static constexpr std::size_t kSmallest = 4096;

  void Drop(std::size_t size) {
    begin_ += size;
    if (begin_ == end_) begin_ = end_ = 0;
  }

  std::unique_ptr<char[]> data_;
  std::size_t size_ = 0;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace support
}  // namespace tvm

#endif  // TVM_SUPPORT_RING_BUFFER_H_
