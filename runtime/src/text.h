// Names, shapes and lists as they are put into sentences; the same words as on the Python side.
#ifndef POCKETFORMER_TEXT_H_
#define POCKETFORMER_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pocketformer {

// 'name', with what would break the line or the quotes escaped.
std::string Quoted(std::string_view name);

// "a, b, c"
std::string Joined(const std::vector<std::string>& words, std::string_view between = ", ");

// "(1, 128)"; "(3,)" for a single axis.
std::string Shown(const std::vector<std::int64_t>& shape);

// The part of `text` before its first line break, without blanks around it.
std::string FirstLine(std::string_view text);

}  // namespace pocketformer

#endif  // POCKETFORMER_TEXT_H_
