// TCP sockets of POSIX, without ownership: whoever has one closes it.
#ifndef TVM_SUPPORT_SOCKET_H_
#define TVM_SUPPORT_SOCKET_H_

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <tvm/ffi/error.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

namespace tvm {
namespace support {

// The address of a host by name or number.
class SockAddr {
 public:
  SockAddr(const char* host, int port) : text_(std::string(host) + ":" + std::to_string(port)) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int code = getaddrinfo(host, std::to_string(port).c_str(), &hints, &found);
    if (code != 0) {
      TVM_FFI_THROW(RuntimeError) << "the host " << host << " is unknown: " << gai_strerror(code);
    }
    std::memcpy(&address_, found->ai_addr, found->ai_addrlen);
    size_ = found->ai_addrlen;
    freeaddrinfo(found);
  }

  int ss_family() const { return address_.ss_family; }
  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t size() const { return size_; }
  const std::string& AsString() const { return text_; }

 private:
  std::string text_;
  sockaddr_storage address_{};
  socklen_t size_ = 0;
};

class Socket {
 public:
  using SockType = int;

  [[noreturn]] static void Error(const char* what) {
    TVM_FFI_THROW(RuntimeError) << what << ": " << std::strerror(errno);
    TVM_FFI_UNREACHABLE();
  }
};

class TCPSocket : public Socket {
 public:
  TCPSocket() = default;
  explicit TCPSocket(SockType descriptor) : descriptor_(descriptor) {}

  void Create(int family) {
    descriptor_ = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor_ < 0) Error("socket");
    const int on = 1;    // a call is a small packet whose answer is waited for
    setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  bool Connect(const SockAddr& address) {
    return connect(descriptor_, address.data(), address.size()) == 0;
  }
  bool BadSocket() const { return descriptor_ < 0; }
  void Close() {
    close(descriptor_);
    descriptor_ = -1;
  }

  // At most `size` bytes; -1 and errno for an error, 0 when the peer has ended.
  ssize_t Send(const void* data, std::size_t size) {
    return Again([&] { return send(descriptor_, data, size, MSG_NOSIGNAL); });
  }
  ssize_t Recv(void* data, std::size_t size) {
    return Again([&] { return recv(descriptor_, data, size, 0); });
  }

  // All `size` bytes, fewer when the peer has ended.
  std::size_t SendAll(const void* data, std::size_t size) {
    const char* bytes = static_cast<const char*>(data);
    return All(size, [&](std::size_t done) { return Send(bytes + done, size - done); });
  }
  std::size_t RecvAll(void* data, std::size_t size) {
    char* bytes = static_cast<char*>(data);
    return All(size, [&](std::size_t done) { return Recv(bytes + done, size - done); });
  }

 private:
  template <typename Call>
  static ssize_t Again(Call call) {
    ssize_t result;
    do {
      result = call();
    } while (result < 0 && errno == EINTR);
    return result;
  }
  template <typename Step>
  static std::size_t All(std::size_t size, Step step) {
    std::size_t done = 0;
    while (done < size) {
      const ssize_t moved = step(done);
      if (moved < 0) Error("the connection broke");
      if (moved == 0) break;
      done += static_cast<std::size_t>(moved);
    }
    return done;
  }

  SockType descriptor_ = -1;
};

}  // namespace support
}  // namespace tvm

#endif  // TVM_SUPPORT_SOCKET_H_
