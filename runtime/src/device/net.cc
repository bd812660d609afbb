#include "device/net.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "error.h"

namespace pocketformer {
namespace {

constexpr int kWaiting = 64;    // clients that the system keeps until they are accepted

Descriptor NewSocket(int family) {
  Descriptor made(socket(family, SOCK_STREAM, 0));
  if (!made) return made;
  fcntl(made.get(), F_SETFD, FD_CLOEXEC);
  SetBlocking(made, false);
  return made;
}

void Set(const Descriptor& socket, int level, int name, int value) {
  setsockopt(socket.get(), level, name, &value, sizeof value);
}

int PortOf(const Descriptor& socket) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bound), &size);
  const bool six = bound.ss_family == AF_INET6;
  return ntohs(six ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                   : reinterpret_cast<sockaddr_in&>(bound).sin_port);
}

}  // namespace

std::int64_t Now() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

std::vector<SocketAddress> Resolve(const std::string& host, int port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  const int fault = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (fault != 0) throw Error("cannot find the host " + host + ": " + gai_strerror(fault));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  std::vector<SocketAddress> addresses;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    SocketAddress address{};
    address.size = each->ai_addrlen;
    std::memcpy(&address.storage, each->ai_addr, each->ai_addrlen);
    addresses.push_back(address);
  }
  std::stable_partition(addresses.begin(), addresses.end(), [](const SocketAddress& address) {
    return address.storage.ss_family == AF_INET;
  });
  return addresses;
}

Descriptor Listen(const std::string& host, int* port) {
  const SocketAddress address = Resolve(host, *port).front();
  Descriptor listening = NewSocket(address.storage.ss_family);
  // Only connections that have ended are passed over by this: a port in use stays refused.
  Set(listening, SOL_SOCKET, SO_REUSEADDR, 1);
  const auto* where = reinterpret_cast<const sockaddr*>(&address.storage);
  if (!listening || bind(listening.get(), where, address.size) != 0 ||
      listen(listening.get(), kWaiting) != 0) {
    const std::string place = ShowPlace(host, *port);
    if (errno != EADDRINUSE) throw Error("cannot listen at " + place + ": " + std::strerror(errno));
    throw Error(place + " is taken; choose another port by --port, 0 for any that is free");
  }
  *port = PortOf(listening);
  return listening;
}

Descriptor Accept(const Descriptor& listening) {
  Descriptor client(accept(listening.get(), nullptr, nullptr));
  if (!client) return client;
  fcntl(client.get(), F_SETFD, FD_CLOEXEC);
  SetBlocking(client, false);
  return client;
}

Descriptor StartConnecting(const SocketAddress& address) {
  Descriptor started = NewSocket(address.storage.ss_family);
  if (!started) return started;
  const auto* where = reinterpret_cast<const sockaddr*>(&address.storage);
  if (connect(started.get(), where, address.size) == 0 || errno == EINPROGRESS) return started;
  return Descriptor();
}

void SetBlocking(const Descriptor& socket, bool blocking) {
  const int flags = fcntl(socket.get(), F_GETFL);
  fcntl(socket.get(), F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

void KeepLively(const Descriptor& socket) {
  Set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  Set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  Set(socket, IPPROTO_TCP, TCP_KEEPIDLE, 20);
  Set(socket, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  Set(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

bool SendAtOnce(const Descriptor& socket, std::string_view data) {
  const ssize_t sent =
      send(socket.get(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent == static_cast<ssize_t>(data.size());
}

bool Receive(const Descriptor& socket, std::size_t most, std::string* text) {
  char piece[4096];
  while (text->size() < most) {
    const std::size_t wanted = std::min(sizeof piece, most - text->size());
    const ssize_t count = recv(socket.get(), piece, wanted, MSG_DONTWAIT);
    if (count == 0) return false;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    text->append(piece, count);
  }
  return true;
}

std::string Int32(std::int32_t value) {
  std::string text;
  for (int shift = 0; shift < 32; shift += 8) {
    text += static_cast<char>(static_cast<std::uint32_t>(value) >> shift);
  }
  return text;
}

std::int32_t Int32At(std::string_view text, std::size_t offset) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    value |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(text[offset + i])) << (8 * i);
  }
  return static_cast<std::int32_t>(value);
}

std::string ShowPlace(const std::string& host, int port) {
  const bool six = host.find(':') != std::string::npos;
  return (six ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

}  // namespace pocketformer
