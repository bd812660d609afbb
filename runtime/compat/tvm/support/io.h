// The stream that TVM's runtime saves to and loads from.
#ifndef TVM_SUPPORT_IO_H_
#define TVM_SUPPORT_IO_H_

#include <dlpack/dlpack.h>

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace tvm {
namespace support {

// What a stream holds as it lies in memory.
template <typename T>
concept Plain = std::is_arithmetic_v<T> || std::is_enum_v<T> || std::same_as<T, DLDataType> ||
                std::same_as<T, DLDevice>;

// How a T lies in a stream; serializer.h says it for what TVM's runtime stores.
template <typename T>
struct Serializer;

class Stream {
 public:
  virtual ~Stream() = default;

  // Returns the number of bytes that were read, fewer than `size` at the end.
  virtual std::size_t Read(void* data, std::size_t size) = 0;
  virtual std::size_t Write(const void* data, std::size_t size) = 0;

  template <typename T>
  bool Read(T* value) {
    return Serializer<T>::Read(this, value);
  }
  template <typename T>
  void Write(const T& value) {
    Serializer<T>::Write(this, value);
  }
  // `count` values without their number; plain ones at once, since uploads come this way.
  template <typename T>
  bool ReadArray(T* values, std::size_t count) {
    if constexpr (Plain<T>) {
      return Read(static_cast<void*>(values), count * sizeof(T)) == count * sizeof(T);
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        if (!Serializer<T>::Read(this, values + i)) return false;
      }
      return true;
    }
  }
  template <typename T>
  void WriteArray(const T* values, std::size_t count) {
    if constexpr (Plain<T>) {
      Write(static_cast<const void*>(values), count * sizeof(T));
    } else {
      for (std::size_t i = 0; i < count; ++i) Serializer<T>::Write(this, values[i]);
    }
  }
};

}  // namespace support
}  // namespace tvm

#include <tvm/support/serializer.h>

#endif  // TVM_SUPPORT_IO_H_
