// The element types of tensors, by numpy's names.
#ifndef POCKETFORMER_DTYPES_H_
#define POCKETFORMER_DTYPES_H_

#include <cstdint>
#include <string_view>

namespace pocketformer {

struct Dtype {
  std::string_view name;           // as numpy spells it
  std::string_view safetensors;    // as a safetensors file spells it
  std::uint8_t code;               // DLPack's
  std::uint8_t bits;

  int bytes() const { return bits / 8; }
};

// Null for a name that is none.
const Dtype* FindDtype(std::string_view name);
const Dtype* FindSafetensorsDtype(std::string_view name);

}  // namespace pocketformer

#endif  // POCKETFORMER_DTYPES_H_
