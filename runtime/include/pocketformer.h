/* pocketformer: run a compiled Transformer ("bundle") on this device.

   Open a bundle, set its inputs, run, read its outputs:

       pf_session* session = pf_open("minilm.pf", 0);
       int64_t shape[] = {1, 8};
       pf_set_input(session, 0, ids, sizeof ids, shape, 2);
       pf_run(session);
       pf_tensor hidden;
       pf_get_output(session, 0, &hidden);
       pf_close(session);

   Errors. A function that can fail returns NULL, or PF_ERROR (-1), and pf_last_error() then tells in
   one sentence what was wrong. No call crashes on NULL or ends the program, and none throws.

   Threads. A session is used by one thread at a time; which one may change between calls. Different
   sessions may be used in different threads at once, and pf_open may be called in several. The
   kernels' own threads are started by the first run that has work for them, as many for every run
   that is under way at the same time, and sleep between the runs. pf_last_error() tells of the
   calling thread's last failed call. A child after fork() may use the sessions that it inherited,
   unless one was in use by another thread at that moment.

   Memory. The weights are mapped from the file: keep it unchanged while the session is open. What a
   function returns a pointer to belongs to the library, and says how long it stays.

   A bundle is code: its checksums tell damage from health, not friend from foe. Open only bundles
   that come from where your program comes from. */
#ifndef POCKETFORMER_H_
#define POCKETFORMER_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define PF_API __attribute__((visibility("default")))
#else
#define PF_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PF_OK 0
#define PF_ERROR (-1)

/* An opened bundle. */
typedef struct pf_session pf_session;

/* What an input or output is. An axis is a number ("384"), a named dimension ("seq") or a formula of
   such ("2*seq + 1"). All pointers stay valid until the session is closed. */
typedef struct pf_tensor_info {
  const char* name;
  const char* dtype;        /* as numpy spells it: "float32", "int64", "bfloat16", "bool" */
  size_t item_bytes;        /* of one element */
  int rank;
  const char* const* axes;  /* `rank` texts */
} pf_tensor_info;

/* The values of an output, in row-major order without gaps. */
typedef struct pf_tensor {
  const void* data;
  size_t bytes;
  const char* dtype;
  int rank;
  const int64_t* shape;     /* `rank` sizes */
} pf_tensor;

/* A call that a run made, on the device's monotonic clock. Names that begin with "vm.",
   "shape_func" or "compute_symbolic_expr" are steps of the machine between the kernels. */
typedef struct pf_call {
  const char* name;
  int64_t start_ns;
  int64_t end_ns;
} pf_call;

/* The versions of this library, and of the TVM that a bundle must have been compiled with. */
PF_API const char* pf_version(void);
PF_API const char* pf_tvm_version(void);

/* What this thread's last failed call complained of, in one sentence; "" before any. It stays valid
   until the thread's next failed call. */
PF_API const char* pf_last_error(void);

/* Opens the bundle in `folder` after its checksums were compared and it was found to be made for
   this machine. `threads` is how many threads kernels use: 0 takes TVM_NUM_THREADS, else what the
   bundle prefers; it is at most the number of CPUs that the thread may use. NULL on failure. */
PF_API pf_session* pf_open(const char* folder, int threads);

/* Ends the session and all that it returned pointers to. NULL is ignored. */
PF_API void pf_close(pf_session* session);

/* Which of the bundle's levels runs, such as "i8mm": the last that this processor can, or the one that
   the variable POCKETFORMER_LEVEL names; "" for a bundle with one, which that variable may call "base".
   NULL for NULL. */
PF_API const char* pf_level(const pf_session* session);

/* How many threads it uses; PF_ERROR for NULL, as the next two. */
PF_API int pf_threads(const pf_session* session);

PF_API int pf_input_count(const pf_session* session);
PF_API int pf_output_count(const pf_session* session);

/* Fill in `*info`. PF_ERROR for an index that is out of range. */
PF_API int pf_describe_input(const pf_session* session, int index, pf_tensor_info* info);
PF_API int pf_describe_output(const pf_session* session, int index, pf_tensor_info* info);

/* The index of the input or output called `name`, PF_ERROR if there is none. */
PF_API int pf_find_input(const pf_session* session, const char* name);
PF_API int pf_find_output(const pf_session* session, const char* name);

/* The size of an axis of a pf_tensor_info, where `names[i]` has the size `sizes[i]`; `count` of them
   are given. PF_ERROR where a dimension is not given, or `axis` is no formula or gives less than 0. */
PF_API int64_t pf_axis_size(const char* axis, const char* const* names, const int64_t* sizes,
                            int count);

/* Copies `bytes` bytes of row-major values of the input's dtype. They are used by every run until
   the input is set again. PF_ERROR where the shape does not fit the input, or `bytes` the shape. */
PF_API int pf_set_input(pf_session* session, int index, const void* data, size_t bytes,
                        const int64_t* shape, int rank);

/* Runs the model on the inputs as they are set; all must be. PF_ERROR where their named dimensions
   contradict one another or no code was compiled for them. Earlier outputs end in any case. */
PF_API int pf_run(pf_session* session);

/* Fills in `*tensor` with an output of the last run. What it points to stays valid, and unchanged,
   until the session's next pf_run, pf_profile or pf_close. */
PF_API int pf_get_output(pf_session* session, int index, pf_tensor* tensor);

/* pf_run, which also tells of every call that it made, in order of their beginnings: `*calls` points
   to `*count` of them and stays valid until the next pf_profile or pf_close. If `mark` is not 0, each
   kernel is surrounded by system calls 0x5155 (1, INDEX) and (2, INDEX), and the run by (3, 0) and
   (4, 0), for an instruction counter to see; INDEX is the kernel's place in `*calls`. Android's
   sandbox of apps kills a process for unknown system calls: mark in a shell only. */
PF_API int pf_profile(pf_session* session, int mark, const pf_call** calls, size_t* count);

#ifdef __cplusplus
}
#endif

#endif /* POCKETFORMER_H_ */
