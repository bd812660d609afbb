// A client's first words: who it wants, whether it knows the token, what it came for.
#ifndef POCKETFORMER_DEVICE_HANDSHAKE_H_
#define POCKETFORMER_DEVICE_HANDSHAKE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "device/net.h"

namespace pocketformer {

constexpr std::int32_t kWelcome = 0xff271;    // also the number that a client begins with
constexpr std::int32_t kBusy = kWelcome + 1;
constexpr std::int32_t kMismatch = kWelcome + 2;

// "client:KEY -token=TOKEN [-timeout=SECONDS] [-info]"
struct Greeting {
  std::string key;
  std::string token;
  std::int64_t limit_ns = 0;    // of the session, 0 for none
  bool info = false;
};

// Nothing for a text that is no greeting.
std::optional<Greeting> ReadGreeting(std::string_view text);

// Takes the same time wherever the two differ, and however long they are.
bool IsSameToken(const std::string& given, const std::string& right);

// A client that has not said yet what it wants; it has a few seconds to do so.
class Handshake {
 public:
  enum class State { kMore, kWhole, kBroken };

  Handshake(Descriptor socket, std::int64_t deadline);

  // Takes in what has arrived, without waiting.
  State Read();
  // The words, once they are whole.
  std::string_view text() const;

  Descriptor& socket() { return socket_; }
  int handle() const { return socket_.get(); }
  std::int64_t deadline() const { return deadline_; }

 private:
  Descriptor socket_;
  std::int64_t deadline_;
  std::string received_;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_HANDSHAKE_H_
