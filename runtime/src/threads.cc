#include "threads.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include "cpu.h"
#include "error.h"

// TVM declares this beside its thread pool, in a header that it does not install.
namespace tvm::runtime::threading {
__attribute__((visibility("default"))) void SetMaxConcurrency(int count);
}

namespace pocketformer {
namespace {

namespace ffi = tvm::ffi;

constexpr int kShareAllCpus = -3;    // a thread may run on every CPU: one that is pinned stalls all
                                     // when its CPU is busy, since TVM splits a loop evenly

ffi::Array<ffi::String> CpuNames() {
  ffi::Array<ffi::String> names;
  for (int cpu : UsableCpus()) names.push_back(std::to_string(cpu));
  return names;
}

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

void UseThreads(int count) {
  // TVM keeps a pool for every thread that calls kernels. Its size is settled by the first use, so
  // that it is made as large as the machine, and `count` of its workers are used.
  thread_local int current = 0;
  if (count == current) return;
  if (count == 1) {
    tvm::runtime::threading::SetMaxConcurrency(1);    // kernels run here, no pool is started
  } else {
    // Asked once: the pool keeps this thread on these CPUs from then on.
    thread_local const ffi::Array<ffi::String> cpus = CpuNames();
    static const ffi::Function configure =
        ffi::Function::GetGlobalRequired("runtime.config_threadpool");
    configure(kShareAllCpus, count, cpus);
  }
  current = count;
}

}  // namespace pocketformer
