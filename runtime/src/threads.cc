#include "threads.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tvm/ffi/c_api.h>
#include <tvm/runtime/c_backend_api.h>

#include "cpu.h"
#include "error.h"

namespace pocketformer {
namespace {

std::int64_t FromEnvironment() {
  const char* text = std::getenv("TVM_NUM_THREADS");
  std::int64_t count = 0;
  if (!text) return 0;
  const char* end = text + std::strlen(text);
  const auto [stop, fault] = std::from_chars(text, end, count);
  return fault == std::errc() && stop == end ? std::max<std::int64_t>(count, 0) : 0;
}

}  // namespace

int ChooseThreads(int asked, std::int64_t wish) {
  if (asked < 0) {
    throw Error("threads is " + std::to_string(asked) +
                ", it must be a whole number from 1 on, or 0 for what the bundle prefers");
  }
  std::int64_t count = asked > 0 ? asked : FromEnvironment();
  if (count == 0) count = wish;
  return static_cast<int>(
      std::clamp<std::int64_t>(count, 1, static_cast<std::int64_t>(UsableCpus().size())));
}

}  // namespace pocketformer

// Kernels call these two, by way of the table of functions that TVM keeps for them.

int TVMBackendParallelLaunch(FTVMParallelLambda task, void* data, int tasks) {
  static_assert(sizeof(TVMParallelGroupEnv) == sizeof(pool_loop));
  return pool_launch(reinterpret_cast<pool_task>(task), data, tasks);
}

int TVMBackendParallelBarrier(int, TVMParallelGroupEnv*) {
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", "the tasks of a loop cannot wait for one another");
  return -1;
}
