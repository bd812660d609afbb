// SHA-256 by ARMv8's SHA2 instructions: four rounds in two.
#include "sha256.h"

// Clang offers the instructions to single functions from version 16 on.
#if defined(__aarch64__) && (!defined(__clang__) || __clang_major__ >= 16)

#include <arm_neon.h>
#include <sys/auxv.h>

#if defined(__clang__)
#define POCKETFORMER_WITH_SHA2 __attribute__((target("sha2")))
#else
#define POCKETFORMER_WITH_SHA2 __attribute__((target("+crypto")))
#endif

namespace pocketformer {
namespace {

POCKETFORMER_WITH_SHA2 void Blocks(std::uint32_t* state, const std::uint8_t* data,
                                   std::size_t count) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; count > 0; --count, data += kSha256Block) {
    const uint32x4_t old_abcd = abcd, old_efgh = efgh;
    uint32x4_t words[4];
    for (int i = 0; i < 4; ++i) {
      words[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const uint32x4_t sum = vaddq_u32(words[i % 4], vld1q_u32(kSha256Rounds + 4 * i));
      if (i < 12) {
        const uint32x4_t begun = vsha256su0q_u32(words[i % 4], words[(i + 1) % 4]);
        words[i % 4] = vsha256su1q_u32(begun, words[(i + 2) % 4], words[(i + 3) % 4]);
      }
      const uint32x4_t before = abcd;
      abcd = vsha256hq_u32(abcd, efgh, sum);
      efgh = vsha256h2q_u32(efgh, before, sum);
    }
    abcd = vaddq_u32(abcd, old_abcd);
    efgh = vaddq_u32(efgh, old_efgh);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

bool HasSha() {
  constexpr unsigned long kSha2 = 1ul << 6;    // AT_HWCAP's bit, which the kernel's ABI fixes
  return getauxval(AT_HWCAP) & kSha2;
}

}  // namespace

Sha256Blocks Sha256BlocksArm() { return HasSha() ? &Blocks : nullptr; }

}  // namespace pocketformer

#else

namespace pocketformer {

Sha256Blocks Sha256BlocksArm() { return nullptr; }

}  // namespace pocketformer

#endif
