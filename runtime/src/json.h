// JSON as it comes from outside: every text is refused or read whole, none crashes.
#ifndef POCKETFORMER_JSON_H_
#define POCKETFORMER_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pocketformer {

struct Json {
  enum class Kind { kNull, kBool, kInteger, kReal, kText, kList, kObject };

  Kind kind = Kind::kNull;
  bool truth = false;
  std::int64_t integer = 0;
  std::string text;                   // UTF-8
  std::vector<Json> items;            // of a list, or the values of an object
  std::vector<std::string> names;     // of an object's values, each once
  std::string_view source;            // what was parsed, as long as that text is there

  // The value of an object's field, null where it has none.
  const Json* Find(std::string_view name) const;
};

// The JSON object that `text` holds. Throws Error, which begins with `where`, for other text, for a
// name given twice and for anything that RFC 8259 does not allow.
Json ParseObject(std::string_view text, const std::string& where);

// `text` as a JSON string, quotes included.
std::string Quote(std::string_view text);

bool IsUtf8(std::string_view text);

}  // namespace pocketformer

#endif  // POCKETFORMER_JSON_H_
