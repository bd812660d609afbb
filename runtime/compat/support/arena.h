// Memory for many small values that are given up together.
#ifndef TVM_SUPPORT_ARENA_H_
#define TVM_SUPPORT_ARENA_H_

#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

namespace tvm {
namespace support {

class Arena {
 public:
  // Room for `count` values, which are not initialised.
  template <typename T>
  T* allocate_(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>, "nobody destroys what lies in an arena");
    const std::size_t bytes = (count * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    if (bytes > left_) {
      left_ = std::max(bytes, kPage);
      pages_.emplace_back(new char[left_]);
      next_ = pages_.back().get();
    }
    char* room = next_;
    next_ += bytes;
    left_ -= bytes;
    return reinterpret_cast<T*>(room);
  }

  void RecycleAll() {
    pages_.clear();
    next_ = nullptr;
    left_ = 0;
  }

 private:
  static constexpr std::size_t kAlign = alignof(std::max_align_t);
  static constexpr std::size_t kPage = 16 * 1024;

  std::vector<std::unique_ptr<char[]>> pages_;
  char* next_ = nullptr;
  std::size_t left_ = 0;
};

}  // namespace support
}  // namespace tvm

#endif  // TVM_SUPPORT_ARENA_H_
