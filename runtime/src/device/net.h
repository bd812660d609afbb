// Sockets that never make the server wait, and the clock by which it waits for them.
#ifndef POCKETFORMER_DEVICE_NET_H_
#define POCKETFORMER_DEVICE_NET_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <vector>

#include "descriptor.h"

namespace pocketformer {

constexpr std::int64_t kSecond = 1000000000;

// Nanoseconds of the monotonic clock.
std::int64_t Now();

struct SocketAddress {
  sockaddr_storage storage;
  socklen_t size;
};

// All that the name means, IPv4 first, since that is what others listen at. Throws Error if that is
// nothing.
std::vector<SocketAddress> Resolve(const std::string& host, int port);

// A listening socket; `port` becomes the one that it got. Throws Error, also where it is taken.
Descriptor Listen(const std::string& host, int* port);

// A client's socket, or none.
Descriptor Accept(const Descriptor& listening);

// A socket on its way to `address`, or none. It becomes writable when it is there.
Descriptor StartConnecting(const SocketAddress& address);

void SetBlocking(const Descriptor& socket, bool blocking);

// Answers at once, and finds out within a minute that the other side is gone without a word.
void KeepLively(const Descriptor& socket);

// Whether all of `data` fitted into the socket's buffer.
bool SendAtOnce(const Descriptor& socket, std::string_view data);

// Appends what has arrived, until `text` has `most` bytes. False once the connection has ended.
bool Receive(const Descriptor& socket, std::size_t most, std::string* text);

// Little-endian, as TVM's protocol has all numbers.
std::string Int32(std::int32_t value);
std::int32_t Int32At(std::string_view text, std::size_t offset);

// `host:port`, with brackets around an IPv6 address.
std::string ShowPlace(const std::string& host, int port);

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_NET_H_
