/* What all of pocketformer_run needs: one sentence and exit code 2, memory, the table of dtypes. */
#ifndef POCKETFORMER_RUN_COMMON_H_
#define POCKETFORMER_RUN_COMMON_H_

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pocketformer.h"

#define MOST_AXES 32

/* An input or output with values of its own. */
typedef struct {
  const char* dtype;
  int rank;
  int64_t shape[MOST_AXES];
  size_t bytes;
  unsigned char* data;
} array;

typedef struct {
  const char* dtype;
  const char* descr;    /* as numpy writes it to a file, without the byte order */
  unsigned char one[8]; /* the number 1 */
} dtype_row;

static const dtype_row dtypes[] = {
    {"bool", "b1", {1}},
    {"int8", "i1", {1}},
    {"int16", "i2", {1}},
    {"int32", "i4", {1}},
    {"int64", "i8", {1}},
    {"uint8", "u1", {1}},
    {"uint16", "u2", {1}},
    {"uint32", "u4", {1}},
    {"uint64", "u8", {1}},
    {"float16", "f2", {0x00, 0x3c}},
    {"bfloat16", "V2", {0x80, 0x3f}},
    {"float32", "f4", {0, 0, 0x80, 0x3f}},
    {"float64", "f8", {0, 0, 0, 0, 0, 0, 0xf0, 0x3f}},
    {"float8_e4m3fn", "V1", {0x38}},
    {"float8_e5m2", "f1", {0x3c}},
};

#if defined(__GNUC__)
__attribute__((noreturn, format(printf, 1, 2)))
#endif
static void fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  fflush(stdout);
  fputs("pocketformer_run: ", stderr);
  vfprintf(stderr, format, values);
  fputc('\n', stderr);
  va_end(values);
  exit(2);
}

/* Never NULL. */
static void* memory(size_t bytes) {
  void* found = malloc(bytes > 0 ? bytes : 1);
  if (!found) fail("there is not enough memory for %zu bytes", bytes);
  return found;
}

/* NULL for a dtype that this program does not know, which a newer library might have. */
static const dtype_row* find_dtype(const char* name) {
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; ++i) {
    if (strcmp(dtypes[i].dtype, name) == 0) return &dtypes[i];
  }
  return NULL;
}

/* The bytes of a whole array; fails, in the name of `where`, where they are too many. */
static size_t count_bytes(const char* where, const int64_t* shape, int rank, size_t item_bytes) {
  size_t bytes = item_bytes;
  for (int i = 0; i < rank; ++i) {
    if (shape[i] == 0) return 0;
  }
  for (int i = 0; i < rank; ++i) {
    if ((uint64_t)shape[i] > (SIZE_MAX / 2) / bytes) fail("%s is too large", where);
    bytes *= (size_t)shape[i];
  }
  return bytes;
}

#endif /* POCKETFORMER_RUN_COMMON_H_ */
