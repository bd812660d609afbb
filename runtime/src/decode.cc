#include "decode.h"

#include <algorithm>

#include "error.h"
#include "text.h"

namespace pocketformer {

using Kind = Json::Kind;

void Field::Refuse(const char* needed) const {
  constexpr std::size_t kMost = 40;
  std::string shown = FirstLine(value_->source);
  if (shown.size() > kMost) {
    std::size_t end = kMost;
    while ((shown[end] & 0xc0) == 0x80) --end;    // not in the middle of a character
    shown = shown.substr(0, end) + "...";
  }
  throw Error(where_ + " is " + shown + ", not " + needed);
}

void Field::Demand(Kind kind, const char* needed) const {
  if (value_->kind != kind) Refuse(needed);
}

const Field& Field::Has(std::initializer_list<std::string_view> names,
                        std::initializer_list<std::string_view> optional) const {
  Demand(Kind::kObject, "an object");
  for (const std::string& name : value_->names) {
    if (std::find(names.begin(), names.end(), name) == names.end() &&
        std::find(optional.begin(), optional.end(), name) == optional.end()) {
      throw Error(where_ + " has an unknown field " + Quoted(name));
    }
  }
  for (const std::string_view name : names) {
    if (!value_->Find(name)) throw Error(where_ + " lacks the field " + Quoted(name));
  }
  return *this;
}

Field Field::At(std::string_view name) const {
  return {*value_->Find(name), where_ + "." + std::string(name)};
}

std::int64_t Field::Integer() const {
  Demand(Kind::kInteger, "a whole number");
  return value_->integer;
}

const std::string& Field::Text() const {
  Demand(Kind::kText, "text");
  return value_->text;
}

std::vector<std::string> Field::Texts() const {
  std::vector<std::string> texts;
  ForItems([&](const Field& item) { texts.push_back(item.Text()); });
  return texts;
}

void Field::ForItems(const std::function<void(const Field&)>& visit) const {
  Demand(Kind::kList, "a list");
  for (std::size_t i = 0; i < value_->items.size(); ++i) {
    visit({value_->items[i], where_ + "[" + std::to_string(i) + "]"});
  }
}

void Field::ForFields(
    const std::function<void(const std::string&, const Field&)>& visit) const {
  Demand(Kind::kObject, "an object");
  for (std::size_t i = 0; i < value_->items.size(); ++i) {
    const std::string& name = value_->names[i];
    visit(name, {value_->items[i], where_ + "[" + Quoted(name) + "]"});
  }
}

}  // namespace pocketformer
