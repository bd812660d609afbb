#include "json.h"

#include <algorithm>
#include <charconv>

#include "error.h"
#include "text.h"

namespace pocketformer {
namespace {

constexpr int kDeepest = 100;    // lists in lists; more would only serve to overflow the stack

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json Whole() {
    Json value = Value(0);
    SkipBlanks();
    if (at_ != text_.size()) Fail("there is more text after the value");
    return value;
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw Error(what + " at byte " + std::to_string(at_));
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool Take(char wanted) {
    if (Peek() != wanted || at_ == text_.size()) return false;
    ++at_;
    return true;
  }

  bool TakeWord(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void SkipBlanks() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(Peek()) != std::string::npos) {
      ++at_;
    }
  }

  Json Value(int depth) {
    if (depth > kDeepest) Fail("lists are nested too deeply");
    SkipBlanks();
    const std::size_t begin = at_;
    Json value;
    if (Take('{')) {
      Object(value, depth);
    } else if (Take('[')) {
      List(value, depth);
    } else if (Take('"')) {
      value.kind = Json::Kind::kText;
      value.text = Text();
    } else if (TakeWord("true")) {
      value.kind = Json::Kind::kBool;
      value.truth = true;
    } else if (TakeWord("false")) {
      value.kind = Json::Kind::kBool;
    } else if (!TakeWord("null")) {
      Number(value);
    }
    value.source = text_.substr(begin, at_ - begin);
    return value;
  }

  void List(Json& list, int depth) {
    list.kind = Json::Kind::kList;
    SkipBlanks();
    if (Take(']')) return;
    do {
      list.items.push_back(Value(depth + 1));
      SkipBlanks();
    } while (Take(','));
    if (!Take(']')) Fail("a list wants ',' or ']'");
  }

  void Object(Json& object, int depth) {
    object.kind = Json::Kind::kObject;
    SkipBlanks();
    if (Take('}')) return;
    do {
      SkipBlanks();
      if (!Take('"')) Fail("an object wants a name");
      object.names.push_back(Text());
      SkipBlanks();
      if (!Take(':')) Fail("a name wants ':'");
      object.items.push_back(Value(depth + 1));
      SkipBlanks();
    } while (Take(','));
    if (!Take('}')) Fail("an object wants ',' or '}'");
    std::vector<std::string_view> sorted(object.names.begin(), object.names.end());
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) throw Error("a name is given twice");
  }

  std::string Text() {
    std::string text;
    while (!Take('"')) {
      if (at_ == text_.size()) Fail("a text has no end");
      if (Take('\\')) {
        Escape(text);
      } else if (static_cast<unsigned char>(Peek()) < 0x20) {
        Fail("a text has a control character");
      } else {
        text += text_[at_++];
      }
    }
    return text;
  }

  void Escape(std::string& text) {
    static constexpr std::string_view kLetters = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    const std::size_t found = kLetters.find(Peek());
    if (at_ < text_.size() && found != std::string_view::npos) {
      text += kMeant[found];
      ++at_;
      return;
    }
    if (!Take('u')) Fail("an escape is none of JSON's");
    unsigned code = Hex4();
    if (code >= 0xd800 && code < 0xdc00 && TakeWord("\\u")) {
      const unsigned low = Hex4();
      if (low < 0xdc00 || low > 0xdfff) Fail("half of a character is missing");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code >= 0xd800 && code <= 0xdfff) Fail("half of a character is missing");
    AppendUtf8(text, code);
  }

  unsigned Hex4() {
    unsigned code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, fault] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() < 4 || fault != std::errc() || end != digits.data() + 4) {
      Fail("\\u wants four hexadecimal digits");
    }
    at_ += 4;
    return code;
  }

  static void AppendUtf8(std::string& text, unsigned code) {
    if (code < 0x80) {
      text += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static constexpr unsigned kLead[] = {0, 0xc0, 0xe0, 0xf0};
    text += static_cast<char>(kLead[more] | code >> (6 * more));
    for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
  }

  void Digits() {
    if (Peek() < '0' || Peek() > '9') Fail("a value was expected");
    while (Peek() >= '0' && Peek() <= '9') ++at_;
  }

  void Number(Json& value) {
    const std::size_t begin = at_;
    value.kind = Json::Kind::kInteger;
    Take('-');
    if (!Take('0')) Digits();
    if (Take('.')) {
      value.kind = Json::Kind::kReal;
      Digits();
    }
    if (Take('e') || Take('E')) {
      value.kind = Json::Kind::kReal;
      if (!Take('+')) Take('-');
      Digits();
    }
    if (value.kind == Json::Kind::kReal) return;    // nothing here asks how much it is
    const auto [end, fault] =
        std::from_chars(text_.data() + begin, text_.data() + at_, value.integer);
    if (fault != std::errc()) Fail("a number is too large");
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

const Json* Json::Find(std::string_view name) const {
  const auto found = std::find(names.begin(), names.end(), name);
  return found == names.end() ? nullptr : &items[found - names.begin()];
}

Json ParseObject(std::string_view text, const std::string& where) {
  if (!IsUtf8(text)) throw Error(where + " is no JSON: it is not UTF-8 text");
  Json value;
  try {
    value = Parser(text).Whole();
  } catch (const Error& error) {
    throw Error(where + " is no JSON: " + error.what());
  }
  if (value.kind != Json::Kind::kObject) throw Error(where + " holds no JSON object");
  return value;
}

}  // namespace pocketformer
