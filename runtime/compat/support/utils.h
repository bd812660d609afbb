// Two questions about texts.
#ifndef TVM_SUPPORT_UTILS_H_
#define TVM_SUPPORT_UTILS_H_

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace tvm {
namespace support {

template <typename Text>
bool StartsWith(const Text& text, std::string_view prefix) {
  return std::string_view(text.data(), text.size()).starts_with(prefix);
}

// Whether `text` is a row of digits.
template <typename Text>
bool IsNumber(const Text& text) {
  return text.size() != 0 &&
         std::all_of(text.data(), text.data() + text.size(), [](char c) { return '0' <= c && c <= '9'; });
}

}  // namespace support
}  // namespace tvm

#endif  // TVM_SUPPORT_UTILS_H_
