/* What a model.so brings for a host process that has TVM's runtime but no native code of ours, which
   is Python: `pocketformer_run`, a function in TVM's way of calling. A program that loads the model.so
   without calling it has TVM's own threads run the loops. */
#include <stdatomic.h>
#include <tvm/ffi/c_api.h>

#include "pool.h"

#define EXPORT __attribute__((visibility("default")))

typedef int (*launch)(pool_task, void*, int);

/* Where kernels find the function that runs a loop; TVM fills it in when it loads the library. A
   model without loops has none. */
extern __attribute__((weak)) _Atomic(launch) __TVMBackendParallelLaunch;
static _Atomic(launch) tvms;

static int launch_here(pool_task task, void* data, int tasks) {
  return pool_entered() ? pool_launch(task, data, tasks) : atomic_load(&tvms)(task, data, tasks);
}

static void take_loops(void) {
  if (!&__TVMBackendParallelLaunch) return;
  const launch found = atomic_load(&__TVMBackendParallelLaunch);
  if (found == launch_here) return;
  atomic_store(&tvms, found);
  atomic_store(&__TVMBackendParallelLaunch, launch_here);
}

/* (threads, function, arguments...): what the function returns for the arguments, with its loops
   shared by so many threads. */
EXPORT int __tvm_ffi_pocketformer_run(void* self, const TVMFFIAny* arguments, int32_t count,
                                      TVMFFIAny* result) {
  (void)self;
  if (count < 2 || arguments[0].type_index != kTVMFFIInt ||
      arguments[1].type_index != kTVMFFIFunction) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "pocketformer_run takes a number of threads, "
                                              "a function, and the function's arguments");
    return -1;
  }
  take_loops();
  const int64_t threads = arguments[0].v_int64;
  const pool_run run = pool_enter(threads > 0 && threads < 4096 ? (int)threads : 1);
  const int status = TVMFFIFunctionCall(arguments[1].v_obj, (TVMFFIAny*)arguments + 2, count - 2,
                                        result);
  pool_leave(run);
  return status;
}
