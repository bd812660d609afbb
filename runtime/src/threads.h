// How many threads TVM's kernels run on.
#ifndef POCKETFORMER_THREADS_H_
#define POCKETFORMER_THREADS_H_

#include <cstdint>

namespace pocketformer {

// What a session uses that was told `asked` (0: not told) and whose bundle prefers `wish`:
// TVM_NUM_THREADS counts before the wish, and no count exceeds the CPUs that this thread may use.
// Throws Error for a negative `asked`.
int ChooseThreads(int asked, std::int64_t wish);

// Lets kernels that this thread calls run on `count` threads.
void UseThreads(int count);

}  // namespace pocketformer

#endif  // POCKETFORMER_THREADS_H_
