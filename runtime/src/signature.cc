#include "signature.h"

#include <algorithm>
#include <optional>

#include "error.h"
#include "text.h"

namespace pocketformer {
namespace {

std::string Has(const TensorSpec& spec, const Shape& shape) {
  return spec.name + " has shape " + Shown(shape);
}

[[noreturn]] void RefuseShape(const TensorSpec& spec, const Shape& shape) {
  throw Error(Has(spec, shape) + "; the model takes " + spec.Shown());
}

// Nothing where the bytes are too many to count, or a size is negative.
std::optional<std::size_t> BytesOf(const Shape& shape, const Dtype& dtype) {
  std::size_t bytes = dtype.bytes();
  for (std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  }
  return bytes;
}

std::string Limits(const Dim& dim) {
  if (dim.high == dim.low) return "be " + std::to_string(dim.low);
  if (!dim.high) return "be at least " + std::to_string(dim.low);
  return "lie in " + std::to_string(dim.low) + ".." + std::to_string(*dim.high);
}

template <typename Pairs>
std::string Named(const Pairs& sizes) {
  std::vector<std::string> words;
  for (const auto& [name, size] : sizes) words.push_back(name + " " + std::to_string(size));
  return Joined(words);
}

}  // namespace

Signature::Signature(const Manifest& manifest, const std::string& level) : manifest_(manifest) {
  for (const Entry& entry : manifest.entries) {
    if (entry.level == level) entries_.push_back(&entry);
  }
  std::stable_sort(entries_.begin(), entries_.end(), [](const Entry* a, const Entry* b) {
    return a->dims.size() > b->dims.size();
  });
}

void Signature::CheckInput(const TensorSpec& spec, const Shape& shape, std::size_t bytes) const {
  if (shape.size() != spec.shape.size()) RefuseShape(spec, shape);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const Axis& axis = spec.shape[i];
    if (shape[i] < 0 || (axis.fixed && axis.size != shape[i])) RefuseShape(spec, shape);
  }
  const std::optional<std::size_t> needed = BytesOf(shape, *spec.dtype);
  if (!needed) RefuseShape(spec, shape);
  if (*needed != bytes) {
    throw Error(Has(spec, shape) + ", which takes " + std::to_string(*needed) + " bytes of " +
                std::string(spec.dtype->name) + ", not " + std::to_string(bytes));
  }
}

Sizes Signature::SizesOf(const std::vector<Shape>& shapes) const {
  Sizes sizes;
  std::map<std::string, const TensorSpec*> source;
  std::vector<std::pair<const Formula*, std::int64_t>> formulas;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const TensorSpec& spec = manifest_.inputs[i];
    for (std::size_t k = 0; k < shapes[i].size(); ++k) {
      const Axis& axis = spec.shape[k];
      const std::int64_t size = shapes[i][k];
      if (axis.fixed) continue;    // compared when the input was set
      if (!manifest_.dims.contains(axis.text)) {
        formulas.emplace_back(&axis.formula, size);
      } else if (const auto [known, fresh] = sizes.emplace(axis.text, size); fresh) {
        source[axis.text] = &spec;
      } else if (known->second != size) {
        throw Error(Has(spec, shapes[i]) + ", where " + axis.text + " is " +
                    std::to_string(size) + ", but " + axis.text + " is " +
                    std::to_string(known->second) + " in " + source[axis.text]->name);
      }
    }
  }
  for (const auto& [formula, size] : formulas) Solve(*formula, size, sizes);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    CheckFormulas(manifest_.inputs[i], shapes[i], sizes);
  }
  return sizes;
}

void Signature::CheckFormulas(const TensorSpec& spec, const Shape& shape,
                              const Sizes& sizes) const {
  for (std::size_t k = 0; k < shape.size(); ++k) {
    const Axis& axis = spec.shape[k];
    if (axis.fixed) continue;
    const std::int64_t size = shape[k];
    const auto dim = manifest_.dims.find(axis.text);
    if (dim != manifest_.dims.end() &&
        (size < dim->second.low || (dim->second.high && size > *dim->second.high))) {
      throw Error(Has(spec, shape) + "; " + axis.text + " is " + std::to_string(size) +
                  " and must " + Limits(dim->second));
    }
    std::int64_t wanted;
    try {
      wanted = axis.formula.Evaluate(sizes);
    } catch (const Error& error) {
      throw Error(Has(spec, shape) + "; " + error.what());
    }
    if (wanted != size) {
      throw Error(Has(spec, shape) + "; the axis " + axis.text + " is " + std::to_string(size) +
                  ", not " + std::to_string(wanted));
    }
  }
}

const Entry& Signature::Choose(const Sizes& sizes) const {
  for (const Entry* entry : entries_) {
    const bool fits = std::all_of(entry->dims.begin(), entry->dims.end(), [&](const auto& dim) {
      const auto size = sizes.find(dim.first);
      return size != sizes.end() && size->second == dim.second;
    });
    if (fits) return *entry;
  }
  std::vector<std::string> made;
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    made.push_back(Named((*entry)->dims));
  }
  throw Error("no code was compiled for " + Named(sizes) + "; the bundle has " +
              Joined(made, "; "));
}

std::string Signature::Inputs() const {
  std::vector<std::string> specs;
  for (const TensorSpec& spec : manifest_.inputs) specs.push_back(spec.Shown());
  return specs.empty() ? "no inputs" : Joined(specs, "; ");
}

}  // namespace pocketformer
