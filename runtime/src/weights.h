// weights.safetensors as it is mapped: where every tensor lies, aligned to 64 bytes.
#ifndef POCKETFORMER_WEIGHTS_H_
#define POCKETFORMER_WEIGHTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "dtypes.h"
#include "files.h"

namespace pocketformer {

constexpr std::size_t kAlignment = 64;    // bytes: a cache line, the widest vector, TVM's wish

struct Weight {
  const Dtype* dtype;
  std::vector<std::int64_t> shape;
  const std::uint8_t* data;    // inside the mapped file
};

// The tensors of the file `content`, called `where` in an error. Throws Error for a file that is
// truncated, has holes or overlaps, or whose tensors are not aligned.
std::map<std::string, Weight> ReadWeights(const MappedFile& content, const std::string& where);

}  // namespace pocketformer

#endif  // POCKETFORMER_WEIGHTS_H_
