// What a run is given, checked against the manifest: shapes and named dimensions.
#ifndef POCKETFORMER_SIGNATURE_H_
#define POCKETFORMER_SIGNATURE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "manifest.h"

namespace pocketformer {

using Shape = std::vector<std::int64_t>;

class Signature {
 public:
  // Its entries are those of `level`. `manifest` must stay as long as this.
  Signature(const Manifest& manifest, const std::string& level);

  // The most special first.
  const std::vector<const Entry*>& entries() const { return entries_; }
  // Throws Error where `shape` has another rank or other fixed sizes than the input, or where
  // `bytes` are not what it takes.
  void CheckInput(const TensorSpec& spec, const Shape& shape, std::size_t bytes) const;
  // The size of every named dimension, once all the shapes are known to fit. Throws Error.
  Sizes SizesOf(const std::vector<Shape>& shapes) const;
  // The entry made for most of `sizes`, and for nothing else than them. Throws Error.
  const Entry& Choose(const Sizes& sizes) const;
  // "ids: int64[1, seq]; mask: int64[1, seq]"
  std::string Inputs() const;

 private:
  void CheckFormulas(const TensorSpec& spec, const Shape& shape, const Sizes& sizes) const;

  const Manifest& manifest_;
  std::vector<const Entry*> entries_;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_SIGNATURE_H_
