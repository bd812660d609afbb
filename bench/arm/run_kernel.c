// Runs one kernel of a compiled library on made-up arrays, marked for count_blocks.c:
//   run_kernel LIBRARY ARRAY...        an array is 128x384, or 128x384:int8 if not float32
// In place of TVM's runtime it has one thread and memory from the C library, so that nothing but
// the kernel is counted.

#include <dlfcn.h>
#include <dlpack/dlpack.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { kMark = 0x5155, kBegin = 3, kEnd = 4, kMostArrays = 16, kMostAxes = 8, kAlignment = 64 };

typedef struct {
  void* sync;
  int32_t tasks;
} ParallelEnv;
typedef int (*Task)(int id, ParallelEnv* env, void* data);

// A kernel raises an error before it returns a code other than 0.
__attribute__((visibility("default"))) void TVMFFIErrorSetRaisedFromCStrParts(
    const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; i++) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

static int launch(Task task, void* data, int tasks) {
  (void)tasks;
  ParallelEnv env = {NULL, 1};
  return task(0, &env, data);
}

static void* take(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  void* memory = NULL;
  return posix_memalign(&memory, kAlignment, bytes ? bytes : 1) ? NULL : memory;
}

static int give_back(int type, int id, void* memory) {
  (void)type, (void)id;
  free(memory);
  return 0;
}

// A library has such a variable only if its kernel calls the function.
static void provide(void* library, const char* name, void* function) {
  void** slot = dlsym(library, name);
  if (slot) *slot = function;
}

// Numbers between -1 and 1, or whole ones of any size; the same in every run.
static void* fill(int64_t count, DLDataType type) {
  int bytes = type.bits / 8;
  char* data = take(0, 0, (uint64_t)(count * bytes), 0, 0);
  uint32_t state = 1;
  for (int64_t i = 0; data && i < count; i++) {
    state = state * 1664525u + 1013904223u;
    uint32_t bits = state;
    if (type.code == kDLFloat || type.code == kDLBfloat) {
      float number = (float)(int32_t)state / 2147483648.0f;
      memcpy(&bits, &number, sizeof bits);
    }
    // The upper half of a float is a bfloat16 (and a small float16), and the high byte of the state is the most random.
    memcpy(data + i * bytes, (char*)&bits + 4 - bytes, (size_t)bytes);
  }
  return data;
}

static int read_type(const char* text, DLDataType* type) {
  static const struct {
    const char* name;
    DLDataType type;
  } known[] = {
      {"float32", {kDLFloat, 32, 1}}, {"bfloat16", {kDLBfloat, 16, 1}}, {"int32", {kDLInt, 32, 1}},
      {"int8", {kDLInt, 8, 1}},       {"uint8", {kDLUInt, 8, 1}},       {"bool", {kDLBool, 8, 1}},
      {"float16", {kDLFloat, 16, 1}},
  };
  const char* colon = strchr(text, ':');
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (strcmp(colon ? colon + 1 : "float32", known[i].name)) continue;
    *type = known[i].type;
    return 0;
  }
  return -1;
}

static int read_shape(const char* text, int64_t* shape) {
  int axes = 0;
  char* end = (char*)text;
  do {
    if (axes == kMostAxes) return -1;
    shape[axes++] = strtoll(end, &end, 10);
  } while (*end++ == 'x');
  return axes;
}

static int fail(const char* what) {
  fprintf(stderr, "run_kernel: %s\n", what);
  return 1;
}

int main(int argc, char** argv) {
  if (argc < 3 || argc - 2 > kMostArrays) return fail("LIBRARY and 1 to 16 shapes are needed");
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(dlerror());
  TVMFFISafeCallType kernel = (TVMFFISafeCallType)dlsym(library, "__tvm_ffi_kernel");
  if (!kernel) return fail("the library has no function named kernel");
  provide(library, "__TVMBackendParallelLaunch", (void*)launch);
  provide(library, "__TVMBackendAllocWorkspace", (void*)take);
  provide(library, "__TVMBackendFreeWorkspace", (void*)give_back);

  static DLTensor tensors[kMostArrays];
  static int64_t shapes[kMostArrays][kMostAxes];
  TVMFFIAny arguments[kMostArrays];
  int arrays = argc - 2;
  for (int i = 0; i < arrays; i++) {
    int axes = read_shape(argv[i + 2], shapes[i]);
    if (axes < 0) return fail("a shape has more than 8 axes");
    int64_t count = 1;
    for (int axis = 0; axis < axes; axis++) count *= shapes[i][axis];
    DLDataType type;
    if (read_type(argv[i + 2], &type)) return fail("an array's type is unknown");
    tensors[i] = (DLTensor){.data = fill(count, type), .device = {kDLCPU, 0}, .ndim = axes,
                            .dtype = type, .shape = shapes[i]};
    if (!tensors[i].data) return fail("out of memory");
    arguments[i] = (TVMFFIAny){.type_index = kTVMFFIDLTensorPtr};
    arguments[i].v_ptr = &tensors[i];
  }
  TVMFFIAny result = {.type_index = kTVMFFINone};
  // The first call binds functions of the C library.
  if (kernel(NULL, arguments, arrays, &result)) return fail("the kernel failed");
  syscall(kMark, kBegin, 0);
  kernel(NULL, arguments, arrays, &result);
  syscall(kMark, kEnd, 0);
  return 0;
}
