// Axes of a signature: "2*seq + 1" as a small formula over named dimensions.
#ifndef POCKETFORMER_AXES_H_
#define POCKETFORMER_AXES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

namespace pocketformer {

using Sizes = std::map<std::string, std::int64_t>;

// A formula of + - * // % min max, as Python reads it: // rounds down and % has the divisor's sign.
class Formula {
 public:
  // Throws Error for a text that is none.
  static Formula Parse(const std::string& text);

  std::set<std::string> names() const;
  // Throws Error where `sizes` lacks a dimension, for a division by zero, and past 64 bits.
  std::int64_t Evaluate(const Sizes& sizes) const;

  struct Node;

 private:
  std::string text_;
  std::shared_ptr<const Node> root_;
};

// An axis: a size, or a formula with its text.
struct Axis {
  explicit Axis(std::int64_t size);
  explicit Axis(const std::string& formula);

  std::string text;
  bool fixed;
  std::int64_t size = 0;      // where `fixed`
  Formula formula;            // where not
};

// Adds to `sizes` the one dimension that `formula` still lacks, so that it becomes `size`. Does
// nothing where none or several are lacking, or where no line leads there: the caller, who evaluates
// it afterwards, reports that.
void Solve(const Formula& formula, std::int64_t size, Sizes& sizes);

}  // namespace pocketformer

#endif  // POCKETFORMER_AXES_H_
