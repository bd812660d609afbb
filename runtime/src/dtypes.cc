#include "dtypes.h"

#include <dlpack/dlpack.h>

namespace pocketformer {
namespace {

constexpr Dtype kDtypes[] = {
    {"bool", "BOOL", kDLBool, 8},
    {"int8", "I8", kDLInt, 8},
    {"int16", "I16", kDLInt, 16},
    {"int32", "I32", kDLInt, 32},
    {"int64", "I64", kDLInt, 64},
    {"uint8", "U8", kDLUInt, 8},
    {"uint16", "U16", kDLUInt, 16},
    {"uint32", "U32", kDLUInt, 32},
    {"uint64", "U64", kDLUInt, 64},
    {"float16", "F16", kDLFloat, 16},
    {"bfloat16", "BF16", kDLBfloat, 16},
    {"float32", "F32", kDLFloat, 32},
    {"float64", "F64", kDLFloat, 64},
    {"float8_e4m3fn", "F8_E4M3", kDLFloat8_e4m3fn, 8},
    {"float8_e5m2", "F8_E5M2", kDLFloat8_e5m2, 8},
};

}  // namespace

const Dtype* FindDtype(std::string_view name) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.name == name) return &dtype;
  }
  return nullptr;
}

const Dtype* FindSafetensorsDtype(std::string_view name) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.safetensors == name) return &dtype;
  }
  return nullptr;
}

}  // namespace pocketformer
