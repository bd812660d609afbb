// A handle of the system's that is closed once.
#ifndef POCKETFORMER_DESCRIPTOR_H_
#define POCKETFORMER_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace pocketformer {

// An open file or socket, closed at the end of its life.
class Descriptor {
 public:
  explicit Descriptor(int handle = -1) : handle_(handle) {}
  Descriptor(Descriptor&& other) noexcept : handle_(std::exchange(other.handle_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Descriptor() {
    if (handle_ >= 0) close(handle_);
  }

  int get() const { return handle_; }
  explicit operator bool() const { return handle_ >= 0; }

 private:
  int handle_;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DESCRIPTOR_H_
