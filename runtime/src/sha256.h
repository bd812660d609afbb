// SHA-256, with the processor's own instructions where it has them.
#ifndef POCKETFORMER_SHA256_H_
#define POCKETFORMER_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace pocketformer {

constexpr std::size_t kSha256Block = 64;

// Takes `count` blocks of 64 bytes into the eight words of `state`.
using Sha256Blocks = void (*)(std::uint32_t* state, const std::uint8_t* data, std::size_t count);

// The portable version, and those of x86's SHA and ARMv8's SHA2 instructions: null where the
// compiler or this processor has none.
void Sha256BlocksPlain(std::uint32_t* state, const std::uint8_t* data, std::size_t count);
Sha256Blocks Sha256BlocksX86();
Sha256Blocks Sha256BlocksArm();

// The 64 constants of the algorithm, aligned for vector loads.
extern const std::uint32_t kSha256Rounds[64];

// A checksum of bytes that come piece by piece. A null `blocks` takes the fastest version.
class Sha256 {
 public:
  explicit Sha256(Sha256Blocks blocks = nullptr);

  void Update(const void* data, std::size_t size);
  // 64 hexadecimal digits. Nothing can be added afterwards.
  std::string Hex();

 private:
  Sha256Blocks blocks_;
  std::array<std::uint32_t, 8> state_;
  std::array<std::uint8_t, kSha256Block> pending_;
  std::size_t pending_size_ = 0;
  std::uint64_t total_ = 0;
};

std::string Sha256Hex(const void* data, std::size_t size);

}  // namespace pocketformer

#endif  // POCKETFORMER_SHA256_H_
