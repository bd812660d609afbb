// TVM's tensors of memory that is ours, and what they hold.
#ifndef POCKETFORMER_TENSORS_H_
#define POCKETFORMER_TENSORS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <tvm/ffi/container/tensor.h>
#include <vector>

#include "dtypes.h"
#include "files.h"
#include "weights.h"

namespace pocketformer {

// An uninitialised tensor whose memory begins on a multiple of kAlignment.
tvm::ffi::Tensor NewTensor(const std::vector<std::int64_t>& shape, const Dtype& dtype);

// `weight` where it lies in `file`, which stays mapped as long as the tensor is there.
tvm::ffi::Tensor MappedTensor(std::shared_ptr<const MappedFile> file, const Weight& weight);

tvm::ffi::Tensor Copy(const tvm::ffi::Tensor& tensor, const Dtype& dtype);

char* DataOf(const tvm::ffi::Tensor& tensor);
std::size_t BytesOf(const tvm::ffi::Tensor& tensor);

// Whether `tensor` lies in this process's memory without gaps, in elements of `dtype`'s size.
bool IsPlain(const tvm::ffi::Tensor& tensor, const Dtype& dtype);

bool Overlap(const tvm::ffi::Tensor& a, const tvm::ffi::Tensor& b);

}  // namespace pocketformer

#endif  // POCKETFORMER_TENSORS_H_
