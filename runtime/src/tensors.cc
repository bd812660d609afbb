#include "tensors.h"

#include <algorithm>
#include <functional>
#include <new>
#include <utility>

namespace pocketformer {
namespace {

namespace ffi = tvm::ffi;

constexpr DLDevice kCpu = {kDLCPU, 0};

DLDataType TypeOf(const Dtype& dtype) { return {dtype.code, dtype.bits, 1}; }

// Both are what TVM calls an allocator: asked for a tensor's memory once, and to give it back.
struct Allocated {
  void AllocData(DLTensor* tensor) {
    // A tensor of no elements gets an address, too.
    const std::size_t size = std::max<std::size_t>(ffi::GetDataSize(*tensor), 1);
    tensor->data = ::operator new(size, std::align_val_t(kAlignment));
  }
  void FreeData(DLTensor* tensor) {
    ::operator delete(tensor->data, std::align_val_t(kAlignment));
  }
};

struct Mapped {
  std::shared_ptr<const MappedFile> file;
  const std::uint8_t* data;

  // Kernels read weights and never write them: the pages are mapped read-only.
  void AllocData(DLTensor* tensor) { tensor->data = const_cast<std::uint8_t*>(data); }
  void FreeData(DLTensor*) { file.reset(); }
};

ffi::ShapeView View(const std::vector<std::int64_t>& shape) {
  return ffi::ShapeView(shape.data(), shape.size());
}

}  // namespace

ffi::Tensor NewTensor(const std::vector<std::int64_t>& shape, const Dtype& dtype) {
  return ffi::Tensor::FromNDAlloc(Allocated(), View(shape), TypeOf(dtype), kCpu);
}

ffi::Tensor MappedTensor(std::shared_ptr<const MappedFile> file, const Weight& weight) {
  return ffi::Tensor::FromNDAlloc(Mapped{std::move(file), weight.data}, View(weight.shape),
                                  TypeOf(*weight.dtype), kCpu);
}

ffi::Tensor Copy(const ffi::Tensor& tensor, const Dtype& dtype) {
  const std::vector<std::int64_t> shape(tensor.shape().begin(), tensor.shape().end());
  ffi::Tensor copy = NewTensor(shape, dtype);
  std::copy_n(DataOf(tensor), BytesOf(tensor), DataOf(copy));
  return copy;
}

char* DataOf(const ffi::Tensor& tensor) {
  return static_cast<char*>(tensor.data_ptr()) + tensor.byte_offset();
}

std::size_t BytesOf(const ffi::Tensor& tensor) {
  return ffi::GetDataSize(*tensor.GetDLTensorPtr());
}

bool IsPlain(const ffi::Tensor& tensor, const Dtype& dtype) {
  return tensor.device().device_type == kDLCPU && tensor.IsContiguous() &&
         tensor.dtype().bits * tensor.dtype().lanes == dtype.bits;
}

bool Overlap(const ffi::Tensor& a, const ffi::Tensor& b) {
  const std::less<const char*> before;    // also orders pointers into different memory
  return before(DataOf(a), DataOf(b) + BytesOf(b)) && before(DataOf(b), DataOf(a) + BytesOf(a));
}

}  // namespace pocketformer
