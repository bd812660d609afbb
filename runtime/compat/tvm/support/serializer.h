// How numbers, texts and lists lie in a stream: little-endian, a list after its length as uint64.
#ifndef TVM_SUPPORT_SERIALIZER_H_
#define TVM_SUPPORT_SERIALIZER_H_

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/string.h>
#include <tvm/support/io.h>

#include <bit>
#include <cstdint>
#include <string>
#include <vector>

namespace tvm {
namespace support {

static_assert(std::endian::native == std::endian::little, "streams hold memory as it is");

template <Plain T>
struct Serializer<T> {
  static void Write(Stream* stream, const T& value) { stream->Write(&value, sizeof(T)); }
  static bool Read(Stream* stream, T* value) {
    return stream->Read(static_cast<void*>(value), sizeof(T)) == sizeof(T);
  }
};

// A text or a vector: its length, then its elements.
template <typename List>
struct ListSerializer {
  static void Write(Stream* stream, const List& list) {
    stream->Write(static_cast<std::uint64_t>(list.size()));
    stream->WriteArray(list.data(), list.size());
  }
  static bool Read(Stream* stream, List* list) {
    std::uint64_t size;
    if (!stream->Read(&size)) return false;
    list->resize(static_cast<std::size_t>(size));
    return stream->ReadArray(list->data(), list->size());
  }
};

template <>
struct Serializer<std::string> : ListSerializer<std::string> {};

template <typename T>
struct Serializer<std::vector<T>> : ListSerializer<std::vector<T>> {};

template <>
struct Serializer<ffi::String> {
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
