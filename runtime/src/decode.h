// A JSON object as what it must be: every field there, of its kind, and no other field.
#ifndef POCKETFORMER_DECODE_H_
#define POCKETFORMER_DECODE_H_

#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace pocketformer {

// A value and its place, such as "manifest.json.files['model.so']", for the message of an Error.
class Field {
 public:
  Field(const Json& value, std::string where) : value_(&value), where_(std::move(where)) {}

  const Json& json() const { return *value_; }
  const std::string& where() const { return where_; }
  bool IsNull() const { return value_->kind == Json::Kind::kNull; }

  // Throws unless this is an object with these fields, perhaps the `optional` ones, and no other.
  const Field& Has(std::initializer_list<std::string_view> names,
                   std::initializer_list<std::string_view> optional = {}) const;
  Field At(std::string_view name) const;               // of an object that Has `name`
  std::int64_t Integer() const;
  const std::string& Text() const;
  std::vector<std::string> Texts() const;
  void ForItems(const std::function<void(const Field&)>& visit) const;    // of a list
  void ForFields(const std::function<void(const std::string&, const Field&)>& visit) const;

  [[noreturn]] void Refuse(const char* needed) const;

 private:
  void Demand(Json::Kind kind, const char* needed) const;

  const Json* value_;
  std::string where_;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DECODE_H_
