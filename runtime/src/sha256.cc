#include "sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace pocketformer {

// Fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2).
alignas(16) const std::uint32_t kSha256Rounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

std::uint32_t BigEndian(const std::uint8_t* bytes) {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 |
         std::uint32_t{bytes[2]} << 8 | bytes[3];
}

void Schedule(const std::uint8_t* block, std::uint32_t* words) {
  for (int i = 0; i < 16; ++i) words[i] = BigEndian(block + 4 * i);
  for (int i = 16; i < 64; ++i) {
    const std::uint32_t a = words[i - 15], b = words[i - 2];
    const std::uint32_t small_0 = std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3);
    const std::uint32_t small_1 = std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10);
    words[i] = words[i - 16] + small_0 + words[i - 7] + small_1;
  }
}

Sha256Blocks Fastest() {
  static const Sha256Blocks found = [] {
    if (Sha256Blocks blocks = Sha256BlocksX86()) return blocks;
    if (Sha256Blocks blocks = Sha256BlocksArm()) return blocks;
    return &Sha256BlocksPlain;
  }();
  return found;
}

}  // namespace

void Sha256BlocksPlain(std::uint32_t* state, const std::uint8_t* data, std::size_t count) {
  for (; count > 0; --count, data += kSha256Block) {
    std::uint32_t words[64];
    Schedule(data, words);
    auto [a, b, c, d, e, f, g, h] = reinterpret_cast<std::uint32_t(&)[8]>(*state);
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t big_1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const std::uint32_t big_0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const std::uint32_t first = h + big_1 + ((e & f) ^ (~e & g)) + kSha256Rounds[i] + words[i];
      const std::uint32_t second = big_0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const std::uint32_t added[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += added[i];
  }
}

Sha256::Sha256(Sha256Blocks blocks)
    : blocks_(blocks ? blocks : Fastest()),
      state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
             0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

void Sha256::Update(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  total_ += size;
  if (pending_size_ > 0) {
    const std::size_t taken = std::min(size, kSha256Block - pending_size_);
    std::memcpy(pending_.data() + pending_size_, bytes, taken);
    pending_size_ += taken, bytes += taken, size -= taken;
    if (pending_size_ < kSha256Block) return;
    blocks_(state_.data(), pending_.data(), 1);
    pending_size_ = 0;
  }
  if (const std::size_t whole = size / kSha256Block) {
    blocks_(state_.data(), bytes, whole);
    bytes += whole * kSha256Block, size -= whole * kSha256Block;
  }
  if (size > 0) std::memcpy(pending_.data(), bytes, size);
  pending_size_ = size;
}

std::string Sha256::Hex() {
  const std::uint64_t bits = total_ * 8;
  const std::uint8_t padding[kSha256Block] = {0x80};
  // The length takes the last eight bytes of a block.
  const std::size_t length = 1 + (kSha256Block + 55 - pending_size_) % kSha256Block;
  Update(padding, length);
  std::uint8_t tail[8];
  for (int i = 0; i < 8; ++i) tail[i] = static_cast<std::uint8_t>(bits >> (56 - 8 * i));
  Update(tail, sizeof tail);
  std::string text;
  for (std::uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

std::string Sha256Hex(const void* data, std::size_t size) {
  Sha256 sha;
  sha.Update(data, size);
  return sha.Hex();
}

}  // namespace pocketformer
