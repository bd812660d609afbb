#include "device/tracker.h"

#include <poll.h>
#include <random>
#include <utility>

#include "device/log.h"
#include "error.h"
#include "json.h"

namespace pocketformer {
namespace {

constexpr std::int32_t kMagic = 0x2f271;
constexpr std::int64_t kRetry = kSecond;
constexpr std::int64_t kPatience = 5 * kSecond;      // for an answer
constexpr std::int64_t kPeriod = 2 * kSecond;        // between questions
constexpr std::int64_t kUnclaimed = 6 * kSecond;     // a client that was sent here comes by then
constexpr std::size_t kLongest = 1 << 20;

// What the numbers in front of a request mean.
constexpr char kPut[] = "3", kUpdateInfo[] = "5", kPendingWords[] = "7";

std::string RandomDigits() {
  std::random_device random;
  std::string digits;
  for (int i = 0; i < 16; ++i) digits += "0123456789abcdef"[random() & 15];
  return digits;
}

}  // namespace

Tracker::Tracker(const Options& options, int port)
    : addresses_(Resolve(options.tracker->host, options.tracker->port)),
      place_(ShowPlace(options.tracker->host, options.tracker->port)),
      key_(options.key),
      advertise_(options.advertise.empty() ? "null" : Quote(options.advertise)),
      port_(port) {}

void Tracker::SetFree(bool free) {
  free_ = free;
  word_.clear();
  if (state_ == State::kUp && asked_ == Asked::kNothing) next_ = Now();
}

short Tracker::events() const {
  if (state_ == State::kDown) return 0;
  return state_ == State::kConnecting ? POLLOUT : POLLIN;
}

std::int64_t Tracker::Deadline() const {
  const bool has_news = state_ == State::kUp && asked_ == Asked::kNothing && free_ && word_.empty();
  return has_news ? 0 : next_;
}

void Tracker::Continue(short ready) {
  if (state_ == State::kConnecting && ready != 0) {
    Greet();
  } else if (ready != 0) {
    Listen();
  }
  if (Now() < Deadline()) return;
  if (state_ == State::kDown) {
    Connect();
  } else if (state_ == State::kUp && asked_ == Asked::kNothing) {
    Ask();
  } else {
    Drop("does not answer");
  }
}

void Tracker::Connect() {
  socket_ = StartConnecting(addresses_[tries_++ % addresses_.size()]);
  if (!socket_) return Drop("cannot be reached");
  state_ = State::kConnecting;
  next_ = Now() + kPatience;
}

void Tracker::Drop(const std::string& reason) {
  if (!complained_) Log("the tracker " + place_ + " " + reason + "; trying on");
  complained_ = true;
  socket_ = Descriptor();
  state_ = State::kDown;
  asked_ = Asked::kNothing;
  known_ = false;
  word_.clear();
  received_.clear();
  next_ = Now() + kRetry;
}

void Tracker::Greet() {
  if (!SendAtOnce(socket_, Int32(kMagic))) return Drop("cannot be reached");
  state_ = State::kGreeting;
}

void Tracker::Listen() {
  const bool open = Receive(socket_, kLongest, &received_);
  if (state_ == State::kGreeting && received_.size() >= 4) {
    if (Int32At(received_, 0) != kMagic) return Drop("is no tracker");
    received_.erase(0, 4);
    state_ = State::kUp;
    next_ = Now();
  }
  while (state_ == State::kUp && received_.size() >= 4) {
    const std::int32_t length = Int32At(received_, 0);
    if (length < 0 || length > static_cast<std::int32_t>(kLongest) - 4) {
      return Drop("sends what is no answer");
    }
    if (received_.size() < 4 + static_cast<std::size_t>(length)) break;
    const std::string reply = received_.substr(4, length);
    received_.erase(0, 4 + length);
    Take(reply);
  }
  if (!open && state_ != State::kDown) Drop("is gone");
}

void Tracker::Take(std::string_view reply) {
  const Asked asked = std::exchange(asked_, Asked::kNothing);
  if (asked == Asked::kWords) return TakeWords(reply);
  if (reply != "0") return Drop("refuses this device");
  next_ = Now();
  if (asked == Asked::kInfo) {
    known_ = true;
  } else {
    Log("registered with the tracker " + place_);
    complained_ = false;
    next_ += kPeriod;
  }
}

// The reply lists the words that nobody was given yet.
void Tracker::TakeWords(std::string_view reply) {
  next_ = Now() + kPeriod;
  bool pending = false;
  try {
    const Json whole = ParseObject("{\"words\": " + std::string(reply) + "}", "its answer");
    for (const Json& word : whole.Find("words")->items) pending = pending || word.text == word_;
  } catch (const Error&) {
    return Drop("sends what is no answer");
  }
  if (pending || !free_) {
    taken_ = 0;
  } else if (taken_ == 0) {
    taken_ = Now();
  } else if (Now() - taken_ >= kUnclaimed) {
    Renew();
  }
}

void Tracker::Ask() {
  const std::string port = std::to_string(port_);
  if (!known_) {
    const std::string name = Quote("server:" + key_);
    return Send(Asked::kInfo, std::string("[") + kUpdateInfo + ", {\"key\": " + name +
                                  ", \"addr\": [" + advertise_ + ", " + port + "]}]");
  }
  if (free_ && word_.empty()) {
    word_ = key_ + ":" + RandomDigits();
    taken_ = 0;
    return Send(Asked::kPut, std::string("[") + kPut + ", " + Quote(key_) + ", [" + port + ", " +
                                 Quote(word_) + "], " + advertise_ + "]");
  }
  Send(Asked::kWords, std::string("[") + kPendingWords + "]");
}

void Tracker::Send(Asked what, const std::string& json) {
  if (!SendAtOnce(socket_, Int32(static_cast<std::int32_t>(json.size())) + json)) {
    return Drop("is gone");
  }
  asked_ = what;
  next_ = Now() + kPatience;
}

}  // namespace pocketformer
