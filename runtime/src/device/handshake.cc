#include "device/handshake.h"

#include <cmath>
#include <cstdlib>
#include <utility>

#include "sha256.h"

namespace pocketformer {
namespace {

constexpr std::size_t kHead = 8;          // the magic number and the length
constexpr std::size_t kLongest = 1024;    // key, token and options fit in a third of it
constexpr double kLongestSession = 1e9;

bool ReadSeconds(const std::string& text, std::int64_t* nanoseconds) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(seconds)) return false;
  if (seconds < 0 || seconds > kLongestSession) return false;
  *nanoseconds = static_cast<std::int64_t>(seconds * kSecond);
  return true;
}

}  // namespace

std::optional<Greeting> ReadGreeting(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n", kClient = "client:";
  constexpr std::string_view kToken = "-token=", kTimeout = "-timeout=";
  Greeting greeting;
  bool first = true;
  while (true) {
    const std::size_t begin = text.find_first_not_of(kBlanks);
    if (begin == std::string_view::npos) break;
    text.remove_prefix(begin);
    const std::string word(text.substr(0, text.find_first_of(kBlanks)));
    text.remove_prefix(word.size());
    if (first && word.rfind(kClient, 0) != 0) return std::nullopt;
    if (first) {
      greeting.key = word.substr(kClient.size());
    } else if (word.rfind(kToken, 0) == 0) {
      greeting.token = word.substr(kToken.size());
    } else if (word.rfind(kTimeout, 0) == 0) {
      if (!ReadSeconds(word.substr(kTimeout.size()), &greeting.limit_ns)) return std::nullopt;
    } else if (word == "-info") {
      greeting.info = true;
    }
    first = false;
  }
  if (first) return std::nullopt;
  return greeting;
}

bool IsSameToken(const std::string& given, const std::string& right) {
  const std::string one = Sha256Hex(given.data(), given.size());
  const std::string other = Sha256Hex(right.data(), right.size());
  unsigned difference = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    difference |= static_cast<unsigned>(one[i] ^ other[i]);
  }
  return difference == 0;
}

Handshake::Handshake(Descriptor socket, std::int64_t deadline)
    : socket_(std::move(socket)), deadline_(deadline) {}

Handshake::State Handshake::Read() {
  const bool open = Receive(socket_, kHead, &received_);
  if (received_.size() >= 4 && Int32At(received_, 0) != kWelcome) return State::kBroken;
  if (received_.size() < kHead) return open ? State::kMore : State::kBroken;
  const std::int32_t length = Int32At(received_, 4);
  if (length < 1 || length > static_cast<std::int32_t>(kLongest)) return State::kBroken;
  const bool more = Receive(socket_, kHead + length, &received_);
  if (received_.size() == kHead + length) return State::kWhole;
  return more ? State::kMore : State::kBroken;
}

std::string_view Handshake::text() const {
  return std::string_view(received_).substr(kHead);
}

}  // namespace pocketformer
