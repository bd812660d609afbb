// How numbers, texts and lists lie in a stream: little-endian, a list after its length as uint64.
#ifndef TVM_SUPPORT_SERIALIZER_H_
#define TVM_SUPPORT_SERIALIZER_H_

#include <dlpack/dlpack.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/string.h>
#include <tvm/support/io.h>

#include <bit>
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace tvm {
namespace support {

static_assert(std::endian::native == std::endian::little, "streams hold memory as it is");

// Stored as it lies in memory.
template <typename T>
concept Plain = std::is_arithmetic_v<T> || std::is_enum_v<T> || std::same_as<T, DLDataType> ||
                std::same_as<T, DLDevice>;

template <Plain T>
struct Serializer<T> {
  static constexpr bool enabled = true;

  static void Write(Stream* stream, const T& value) { stream->Write(&value, sizeof(T)); }
  static bool Read(Stream* stream, T* value) {
    return stream->Read(static_cast<void*>(value), sizeof(T)) == sizeof(T);
  }
};

// A text or a vector: its length, then its elements.
template <typename List>
struct ListSerializer {
  static constexpr bool enabled = true;
  using Element = typename List::value_type;

  static void Write(Stream* stream, const List& list) {
    stream->Write(static_cast<std::uint64_t>(list.size()));
    if constexpr (Plain<Element>) {
      stream->Write(list.data(), list.size() * sizeof(Element));
    } else {
      stream->WriteArray(list.data(), list.size());
    }
  }
  static bool Read(Stream* stream, List* list) {
    std::uint64_t size;
    if (!stream->Read(&size)) return false;
    list->resize(static_cast<std::size_t>(size));
    if constexpr (Plain<Element>) {
      const std::size_t bytes = list->size() * sizeof(Element);
      return stream->Read(static_cast<void*>(list->data()), bytes) == bytes;
    } else {
      return stream->ReadArray(list->data(), list->size());
    }
  }
};

template <>
struct Serializer<std::string> : ListSerializer<std::string> {};

template <typename T>
struct Serializer<std::vector<T>> : ListSerializer<std::vector<T>> {};

template <>
struct Serializer<ffi::String> {
  static constexpr bool enabled = true;

  static void Write(Stream* stream, const ffi::String& text) {
    stream->Write(static_cast<std::uint64_t>(text.size()));
    stream->Write(text.data(), text.size());
  }
  static bool Read(Stream* stream, ffi::String* text) {
    std::string read;
    if (!stream->Read(&read)) return false;
    *text = std::move(read);
    return true;
  }
};

template <typename T>
struct Serializer<ffi::Array<T>> {
  static constexpr bool enabled = true;

  static void Write(Stream* stream, const ffi::Array<T>& array) {
    stream->Write(static_cast<std::uint64_t>(array.size()));
    for (const T& element : array) stream->Write(element);
  }
  static bool Read(Stream* stream, ffi::Array<T>* array) {
    std::vector<T> read;
    if (!stream->Read(&read)) return false;
    *array = ffi::Array<T>(read.begin(), read.end());
    return true;
  }
};

}  // namespace support
}  // namespace tvm

#endif  // TVM_SUPPORT_SERIALIZER_H_
