// How many threads share the loops of kernels.
#ifndef POCKETFORMER_THREADS_H_
#define POCKETFORMER_THREADS_H_

#include <cstdint>

#include "pool/pool.h"

namespace pocketformer {

// What a session uses that was told `asked` (0: not told) and whose bundle prefers `wish`:
// TVM_NUM_THREADS counts before the wish, and no count exceeds the CPUs that this thread may use.
// Throws Error for a negative `asked`.
int ChooseThreads(int asked, std::int64_t wish);

// While it lives, `count` threads share the loops of kernels that this thread calls.
class Threads {
 public:
  explicit Threads(int count) : run_(pool_enter(count)) {}
  ~Threads() { pool_leave(run_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  const pool_run run_;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_THREADS_H_
