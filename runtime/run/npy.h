/* Arrays in numpy's .npy files: read in row-major order and little-endian, refused otherwise. */
#ifndef POCKETFORMER_RUN_NPY_H_
#define POCKETFORMER_RUN_NPY_H_

#include <ctype.h>
#include <errno.h>

#include "common.h"

#define NPY_MAGIC "\x93NUMPY"
#define MOST_HEADER 65536 /* far more than numbers need */

/* The header's text, a Python dict such as
   {'descr': '<f4', 'fortran_order': False, 'shape': (1, 128), }, as it is read. */
typedef struct {
  const char* path;
  const char* at;
} npy_text;

static void npy_refuse(const npy_text* text) {
  fail("%s is no .npy file of numbers: its header cannot be read", text->path);
}

static char npy_peek(npy_text* text) {
  while (*text->at == ' ' || *text->at == '\n') ++text->at;
  return *text->at;
}

static int npy_take(npy_text* text, char wanted) {
  if (npy_peek(text) != wanted) return 0;
  ++text->at;
  return 1;
}

static void npy_word(npy_text* text, char* word, size_t size) {
  size_t length = 0;
  const char quote = npy_take(text, '\'') ? '\'' : '"';
  if (quote == '"' && !npy_take(text, '"')) npy_refuse(text);
  while (*text->at && *text->at != quote) {
    if (length + 1 == size) npy_refuse(text);
    word[length++] = *text->at++;
  }
  word[length] = '\0';
  if (!npy_take(text, quote)) npy_refuse(text);
}

static void npy_shape(npy_text* text, array* result) {
  if (!npy_take(text, '(')) npy_refuse(text);
  result->rank = 0;
  while (!npy_take(text, ')')) {
    int64_t size = 0;
    if (!isdigit((unsigned char)npy_peek(text)) || result->rank == MOST_AXES) npy_refuse(text);
    while (isdigit((unsigned char)*text->at)) {
      if (size > INT64_MAX / 10 - 1) npy_refuse(text);
      size = 10 * size + (*text->at++ - '0');
    }
    result->shape[result->rank++] = size;
    if (!npy_take(text, ',') && npy_peek(text) != ')') npy_refuse(text);
  }
}

/* Whether the array is in Fortran's order. */
static int npy_order(npy_text* text) {
  const int fortran = npy_peek(text) == 'T' && strncmp(text->at, "True", 4) == 0;
  if (!fortran && strncmp(text->at, "False", 5) != 0) npy_refuse(text);
  text->at += fortran ? 4 : 5;
  return fortran;
}

static void npy_header(npy_text* text, array* result, char* descr, size_t size, int* fortran) {
  int known = 0;
  if (!npy_take(text, '{')) npy_refuse(text);
  while (!npy_take(text, '}')) {
    char key[32];
    npy_word(text, key, sizeof key);
    if (!npy_take(text, ':')) npy_refuse(text);
    if (strcmp(key, "descr") == 0) {
      if (npy_take(text, '[')) fail("%s holds records, not numbers", text->path);
      npy_word(text, descr, size);
      known |= 1;
    } else if (strcmp(key, "fortran_order") == 0) {
      *fortran = npy_order(text);
      known |= 2;
    } else if (strcmp(key, "shape") == 0) {
      npy_shape(text, result);
      known |= 4;
    } else {
      npy_refuse(text);
    }
    if (!npy_take(text, ',') && npy_peek(text) != '}') npy_refuse(text);
  }
  if (known != 7) npy_refuse(text);
}

/* Finds the dtype of `descr` and its size; the input `name` must be of it. */
static size_t npy_dtype(const char* path, const char* descr, const pf_tensor_info* input,
                        array* result) {
  if (descr[0] == '>') {
    fail("%s is big-endian; write it little-endian, as array.astype('<%s')", path, descr + 1);
  }
  const char* kind = strchr("<|=", descr[0]) && descr[0] ? descr + 1 : descr;
  const dtype_row* wanted = find_dtype(input->dtype);
  if (!wanted || strcmp(wanted->descr, kind) != 0) {
    const char* found = kind;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; ++i) {
      if (strcmp(dtypes[i].descr, kind) == 0) found = dtypes[i].dtype;
    }
    fail("%s has dtype %s, the model takes %s for %s", path, found, input->dtype, input->name);
  }
  result->dtype = wanted->dtype;
  return input->item_bytes;
}

/* The header, which ends where the values begin. */
static char* npy_read_header(FILE* file, const char* path) {
  unsigned char begin[12];
  if (fread(begin, 1, 10, file) != 10 || memcmp(begin, NPY_MAGIC, 6) != 0) {
    fail("%s is no .npy file", path);
  }
  size_t length = begin[8] | (size_t)begin[9] << 8;
  if (begin[6] > 1) {
    if (fread(begin + 10, 1, 2, file) != 2) fail("%s is truncated", path);
    length |= (size_t)begin[10] << 16 | (size_t)begin[11] << 24;
  }
  if (begin[6] < 1 || begin[6] > 3 || length > MOST_HEADER) {
    fail("%s is no .npy file of numbers: its header cannot be read", path);
  }
  char* header = memory(length + 1);
  if (fread(header, 1, length, file) != length) fail("%s is truncated", path);
  header[length] = '\0';
  return header;
}

/* The array in the file `path`, which must have the dtype of `input`. */
static array read_npy(const char* path, const pf_tensor_info* input) {
  array result = {0};
  char descr[32];
  int fortran = 0;
  FILE* file = fopen(path, "rb");
  if (!file) fail("cannot read %s: %s", path, strerror(errno));
  char* header = npy_read_header(file, path);
  npy_text text = {path, header};
  npy_header(&text, &result, descr, sizeof descr, &fortran);
  free(header);
  if (fortran && result.rank > 1) {
    fail("%s is in Fortran's order; write it as numpy.ascontiguousarray(array)", path);
  }
  const size_t item_bytes = npy_dtype(path, descr, input, &result);
  result.bytes = count_bytes(path, result.shape, result.rank, item_bytes);
  const long begin = ftell(file);
  if (begin < 0 || fseek(file, 0, SEEK_END) != 0) fail("cannot read %s", path);
  const long long found = (long long)ftell(file) - begin;
  if (found != (long long)result.bytes) {
    fail("%s has %lld bytes of values, its shape needs %zu", path, found, result.bytes);
  }
  result.data = memory(result.bytes);
  if (fseek(file, begin, SEEK_SET) != 0 ||
      fread(result.data, 1, result.bytes, file) != result.bytes) {
    fail("cannot read %s", path);
  }
  fclose(file);
  return result;
}

/* Writes `tensor` to the file `path`, which appears whole or not at all. */
static void write_npy(const char* path, const pf_tensor* tensor) {
  const dtype_row* dtype = find_dtype(tensor->dtype);
  if (!dtype) fail("%s cannot be written: .npy has no %s", path, tensor->dtype);
  char header[64 * 14];
  const size_t size = sizeof header;
  const int wide = strcmp(dtype->descr + 1, "1") != 0;
  int length = snprintf(header, size, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                        wide || dtype->descr[0] == 'V' || dtype->descr[0] == 'f' ? '<' : '|',
                        dtype->descr);
  for (int i = 0; i < tensor->rank && i < MOST_AXES; ++i) {
    length += snprintf(header + length, size - length, "%lld,%s", (long long)tensor->shape[i],
                       i + 1 < tensor->rank ? " " : "");
  }
  length += snprintf(header + length, size - length, "), }");
  while ((10 + length + 1) % 64 != 0) header[length++] = ' ';
  header[length++] = '\n';

  char* part = memory(strlen(path) + sizeof ".part");
  sprintf(part, "%s.part", path);
  const unsigned char begin[] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, length & 255, length >> 8};
  FILE* file = fopen(part, "wb");
  int fine = file && fwrite(begin, 1, sizeof begin, file) == sizeof begin &&
             fwrite(header, 1, length, file) == (size_t)length &&
             fwrite(tensor->data, 1, tensor->bytes, file) == tensor->bytes;
  if (file && fclose(file) != 0) fine = 0;
  if (!fine || rename(part, path) != 0) {
    const int reason = errno;
    remove(part);
    fail("cannot write %s: %s", path, strerror(reason));
  }
  free(part);
}

#endif /* POCKETFORMER_RUN_NPY_H_ */
