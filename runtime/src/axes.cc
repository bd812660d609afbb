#include "axes.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

#include "error.h"
#include "text.h"

namespace pocketformer {

using std::int64_t;

struct Formula::Node {
  enum class Kind { kNumber, kName, kAdd, kSubtract, kMultiply, kDivide, kRemainder, kMin, kMax };

  Kind kind;
  int64_t number = 0;
  std::string name;
  std::vector<std::shared_ptr<const Node>> operands;
};

namespace {

using Node = Formula::Node;
using NodePtr = std::shared_ptr<const Node>;
using Kind = Node::Kind;

constexpr std::size_t kLongest = 500;

struct NoFormula {};
struct TooLarge {};
struct DividesByZero {};

bool IsNameStart(char c) {
  const auto byte = static_cast<unsigned char>(c);
  const auto letter = static_cast<unsigned char>(byte | 32);
  return (letter >= 'a' && letter <= 'z') || c == '_' || byte >= 0x80;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

NodePtr Binary(Kind kind, NodePtr left, NodePtr right) {
  return std::make_shared<Node>(Node{kind, 0, "", {std::move(left), std::move(right)}});
}

// Recursive descent: a sum of products of signed atoms. 500 characters cannot nest too deeply.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  NodePtr Whole() {
    NodePtr node = Sum();
    if (Skip() != '\0' || at_ != text_.size()) throw NoFormula();
    return node;
  }

 private:
  char Skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool Take(char wanted) {
    if (Skip() != wanted || at_ == text_.size()) return false;
    ++at_;
    return true;
  }

  NodePtr Sum() {
    NodePtr left = Product();
    while (true) {
      if (Take('+')) {
        left = Binary(Kind::kAdd, left, Product());
      } else if (Take('-')) {
        left = Binary(Kind::kSubtract, left, Product());
      } else {
        return left;
      }
    }
  }

  NodePtr Product() {
    NodePtr left = Signed();
    while (true) {
      if (Take('*')) {
        left = Binary(Kind::kMultiply, left, Signed());
      } else if (Take('%')) {
        left = Binary(Kind::kRemainder, left, Signed());
      } else if (Take('/')) {
        if (at_ == text_.size() || text_[at_++] != '/') throw NoFormula();
        left = Binary(Kind::kDivide, left, Signed());
      } else {
        return left;
      }
    }
  }

  NodePtr Signed() {
    if (!Take('-')) return Atom();
    return Binary(Kind::kSubtract, std::make_shared<Node>(Node{Kind::kNumber, 0, "", {}}),
                  Signed());
  }

  NodePtr Atom() {
    if (Take('(')) {
      NodePtr inside = Sum();
      if (!Take(')')) throw NoFormula();
      return inside;
    }
    const char first = Skip();
    if (IsDigit(first)) return Number();
    if (!IsNameStart(first)) throw NoFormula();
    const std::size_t begin = at_;
    while (at_ < text_.size() && (IsNameStart(text_[at_]) || IsDigit(text_[at_]))) ++at_;
    std::string name(text_.substr(begin, at_ - begin));
    if (Take('(')) return Call(name);
    return std::make_shared<Node>(Node{Kind::kName, 0, std::move(name), {}});
  }

  NodePtr Number() {
    Node node{Kind::kNumber, 0, "", {}};
    const char* begin = text_.data() + at_;
    const auto [end, fault] = std::from_chars(begin, text_.data() + text_.size(), node.number);
    if (fault != std::errc()) throw NoFormula();
    at_ += end - begin;
    return std::make_shared<Node>(std::move(node));
  }

  NodePtr Call(const std::string& name) {
    if (name != "min" && name != "max") throw NoFormula();
    Node node{name == "min" ? Kind::kMin : Kind::kMax, 0, "", {}};
    do {
      node.operands.push_back(Sum());
    } while (Take(','));
    if (!Take(')')) throw NoFormula();
    return std::make_shared<Node>(std::move(node));
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

int64_t Divide(int64_t a, int64_t b) {
  if (b == 0) throw DividesByZero();
  if (a == INT64_MIN && b == -1) throw TooLarge();
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

int64_t Remainder(int64_t a, int64_t b) {
  if (b == 0) throw DividesByZero();
  if (b == -1) return 0;    // INT64_MIN % -1 would trap
  const int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

int64_t Compute(Kind kind, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (kind) {
    case Kind::kAdd: overflow = __builtin_add_overflow(a, b, &result); break;
    case Kind::kSubtract: overflow = __builtin_sub_overflow(a, b, &result); break;
    case Kind::kMultiply: overflow = __builtin_mul_overflow(a, b, &result); break;
    case Kind::kDivide: return Divide(a, b);
    case Kind::kRemainder: return Remainder(a, b);
    case Kind::kMin: return std::min(a, b);
    default: return std::max(a, b);
  }
  if (overflow) throw TooLarge();
  return result;
}

int64_t ValueOf(const Node& node, const Sizes& sizes) {
  if (node.kind == Kind::kNumber) return node.number;
  if (node.kind == Kind::kName) {
    const auto found = sizes.find(node.name);
    if (found != sizes.end()) return found->second;
    throw Error("nothing tells the size of the dimension " + node.name);
  }
  int64_t value = ValueOf(*node.operands[0], sizes);
  for (std::size_t i = 1; i < node.operands.size(); ++i) {
    value = Compute(node.kind, value, ValueOf(*node.operands[i], sizes));
  }
  return value;
}

void Collect(const Node& node, std::set<std::string>& names) {
  if (node.kind == Kind::kName) names.insert(node.name);
  for (const NodePtr& operand : node.operands) Collect(*operand, names);
}

}  // namespace

Formula Formula::Parse(const std::string& text) {
  try {
    if (text.size() > kLongest) throw NoFormula();
    Formula formula;
    formula.text_ = text;
    formula.root_ = Reader(text).Whole();
    return formula;
  } catch (const NoFormula&) {
    throw Error("the axis " + Quoted(text) + " is no formula in named dimensions");
  }
}

std::set<std::string> Formula::names() const {
  std::set<std::string> names;
  if (root_) Collect(*root_, names);
  return names;
}

int64_t Formula::Evaluate(const Sizes& sizes) const {
  try {
    return ValueOf(*root_, sizes);
  } catch (const DividesByZero&) {
    throw Error("the axis " + Quoted(text_) + " divides by zero");
  } catch (const TooLarge&) {
    throw Error("the axis " + Quoted(text_) + " is too large");
  }
}

Axis::Axis(int64_t size) : text(std::to_string(size)), fixed(true), size(size) {}

Axis::Axis(const std::string& formula)
    : text(formula), fixed(false), formula(Formula::Parse(formula)) {}

void Solve(const Formula& formula, int64_t size, Sizes& sizes) {
  std::set<std::string> lacking = formula.names();
  std::erase_if(lacking, [&](const std::string& name) { return sizes.contains(name); });
  if (lacking.size() != 1) return;
  const std::string& name = *lacking.begin();
  // Axes are linear in practice: two points give the line. Any other formula fails the check.
  Sizes with = sizes;
  with[name] = 1;
  const int64_t at_1 = formula.Evaluate(with);
  with[name] = 2;
  const int64_t at_2 = formula.Evaluate(with);
  int64_t distance, step;
  if (__builtin_sub_overflow(size, at_1, &distance) || __builtin_sub_overflow(at_2, at_1, &step)) {
    return;
  }
  if (step == 0 || (distance == INT64_MIN && step == -1)) return;
  int64_t found;
  if (!__builtin_add_overflow(Divide(distance, step), 1, &found)) sizes[name] = found;
}

}  // namespace pocketformer
