/* Ways to wait for another thread: asleep, or awake for a while. */
#ifndef POCKETFORMER_POOL_WAIT_H_
#define POCKETFORMER_POOL_WAIT_H_

#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline void futex(_Atomic uint32_t* word, int what, uint32_t value) {
  syscall(SYS_futex, word, what | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static inline void rest(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");    /* waits for some cycles; "yield" does nothing on most cores */
#else
  __asm__ volatile("yield");
#endif
}

static inline int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Waits until `*word` is (or is not) `value`, for `ns` at most, or until `*until` is 0. */
static inline int await(_Atomic uint32_t* word, int is, uint32_t value, _Atomic int* until,
                        int64_t ns) {
  int64_t end = 0;
  for (unsigned turn = 1;; ++turn) {
    if ((atomic_load(word) == value) == is) return 1;
    if (until && !atomic_load(until)) return 0;
    if (turn % 32 == 0) {
      const int64_t now = now_ns();
      if (end == 0) end = now + ns;
      if (now > end) return 0;
    }
    rest();
  }
}

#endif /* POCKETFORMER_POOL_WAIT_H_ */
