/* pocketformer_run: runs a bundle from files and prints its latency. The C API's first user. */
#define _POSIX_C_SOURCE 200809L

#include <ctype.h>
#include <errno.h>
#include <sys/stat.h>
#include <time.h>

#include "common.h"
#include "npy.h"
#include "options.h"
#include "report.h"

#define MOST_MADE_UP ((size_t)1 << 30) /* bytes of an input of ones */

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void check(int status) {
  if (status < 0) fail("%s", pf_last_error());
}

static pf_tensor_info describe_input(pf_session* session, int i) {
  pf_tensor_info info;
  check(pf_describe_input(session, i, &info));
  if (info.rank > MOST_AXES) fail("%s has %d axes, too many", info.name, info.rank);
  return info;
}

static int is_letter(char c) { return isalnum((unsigned char)c) || c == '_' || (c & 0x80); }

/* Whether the formula `axis` names the dimension `name`. */
static int mentions(const char* axis, const char* name) {
  const size_t length = strlen(name);
  for (const char* at = strstr(axis, name); at; at = strstr(at + 1, name)) {
    if ((at == axis || !is_letter(at[-1])) && !is_letter(at[length])) return 1;
  }
  return 0;
}

static void check_dims(pf_session* session, const options* chosen) {
  for (int d = 0; d < chosen->dim_count; ++d) {
    int found = 0;
    for (int i = 0; i < pf_input_count(session); ++i) {
      const pf_tensor_info info = describe_input(session, i);
      for (int k = 0; k < info.rank; ++k) found |= mentions(info.axes[k], chosen->dim_names[d]);
    }
    if (!found) fail("no input has the dimension %s", chosen->dim_names[d]);
  }
}

/* A given input tells the sizes of its named axes, for the inputs that are not given. */
static void learn_dims(options* chosen, const pf_tensor_info* info, const array* values) {
  for (int k = 0; k < info->rank && k < values->rank; ++k) {
    const char* axis = info->axes[k];
    int plain = !isdigit((unsigned char)axis[0]), known = chosen->dim_count == MOST_NAMED;
    for (const char* at = axis; *at; ++at) plain &= is_letter(*at);
    for (int d = 0; d < chosen->dim_count; ++d) known |= !strcmp(chosen->dim_names[d], axis);
    if (!plain || known) continue;
    chosen->dim_names[chosen->dim_count] = axis;
    chosen->dim_sizes[chosen->dim_count++] = values->shape[k];
  }
}

static void set_given(pf_session* session, options* chosen) {
  for (int g = 0; g < chosen->input_count; ++g) {
    const int i = pf_find_input(session, chosen->inputs[g].name);
    check(i);
    const pf_tensor_info info = describe_input(session, i);
    array values = read_npy(chosen->inputs[g].value, &info);
    check(pf_set_input(session, i, values.data, values.bytes, values.shape, values.rank));
    learn_dims(chosen, &info, &values);
    free(values.data);
  }
}

static int is_given(const options* chosen, const char* name) {
  for (int g = 0; g < chosen->input_count; ++g) {
    if (strcmp(chosen->inputs[g].name, name) == 0) return 1;
  }
  return 0;
}

static void set_ones(pf_session* session, const options* chosen, int i) {
  const pf_tensor_info info = describe_input(session, i);
  const dtype_row* dtype = find_dtype(info.dtype);
  if (!dtype) fail("%s has dtype %s, which has no ones", info.name, info.dtype);
  int64_t shape[MOST_AXES];
  for (int k = 0; k < info.rank; ++k) {
    shape[k] = pf_axis_size(info.axes[k], chosen->dim_names, chosen->dim_sizes, chosen->dim_count);
    if (shape[k] < 0) fail("%s: %s; --dim NAME=SIZE tells it", info.name, pf_last_error());
  }
  const size_t bytes = count_bytes(info.name, shape, info.rank, info.item_bytes);
  if (bytes > MOST_MADE_UP) {
    fail("%s would be %zu bytes of ones; give it with --input", info.name, bytes);
  }
  unsigned char* data = memory(bytes);
  for (size_t at = 0; at < bytes; at += info.item_bytes) {
    memcpy(data + at, dtype->one, info.item_bytes);
  }
  check(pf_set_input(session, i, data, bytes, shape, info.rank));
  free(data);
}

static void set_inputs(pf_session* session, options* chosen) {
  const int inputs = pf_input_count(session);
  int made = 0;
  check_dims(session, chosen);
  set_given(session, chosen);
  for (int i = 0; i < inputs; ++i) {
    if (!is_given(chosen, describe_input(session, i).name)) set_ones(session, chosen, i);
  }
  for (int i = 0; i < inputs; ++i) {
    const char* name = describe_input(session, i).name;
    if (is_given(chosen, name)) continue;
    fprintf(stderr, "%s %s", made++ ? "," : "note: filled with ones:", name);
  }
  if (made) fputc('\n', stderr);
}

/* FOLDER/NAME.npy, with an underscore for what does not belong into a file's name. */
static char* output_path(const char* folder, const char* name, int i) {
  char* path = memory(strlen(folder) + strlen(name) + 32);
  char* at = path + sprintf(path, "%s/", folder);
  if (!*name || *name == '.') at += sprintf(at, "output_%d", i);
  for (; *name; ++name) *at++ = is_letter(*name) || strchr(".-", *name) ? *name : '_';
  strcpy(at, ".npy");
  return path;
}

static void write_outputs(pf_session* session, const char* folder) {
  if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
    fail("cannot make the folder %s: %s", folder, strerror(errno));
  }
  for (int i = 0; i < pf_output_count(session); ++i) {
    pf_tensor_info info;
    pf_tensor tensor;
    check(pf_describe_output(session, i, &info));
    check(pf_get_output(session, i, &tensor));
    char* path = output_path(folder, info.name, i);
    write_npy(path, &tensor);
    free(path);
  }
}

static int compare(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void measure(pf_session* session, const options* chosen, measured* found) {
  for (int i = 0; i < chosen->warmup; ++i) check(pf_run(session));
  found->runs = chosen->runs;
  found->ms = memory(sizeof(double) * (size_t)chosen->runs);
  for (int i = 0; i < chosen->runs; ++i) {
    const double begin = now_ms();
    check(pf_run(session));
    found->ms[i] = now_ms() - begin;
  }
  qsort(found->ms, (size_t)chosen->runs, sizeof(double), compare);
  if (chosen->profile || chosen->mark) {
    check(pf_profile(session, chosen->mark, &found->calls, &found->call_count));
  }
}

int main(int count, char** words) {
  options chosen = read_options(count, words);
  measured found = {0};
  const double begin = now_ms();
  pf_session* session = pf_open(chosen.bundle, chosen.threads);
  if (!session) fail("%s", pf_last_error());
  found.open_ms = now_ms() - begin;
  set_inputs(session, &chosen);
  measure(session, &chosen, &found);
  if (chosen.output) write_outputs(session, chosen.output);
  (chosen.json ? print_json : print_text)(session, &chosen, &found);
  for (size_t i = 0; chosen.mark && i < found.call_count; ++i) {
    if (is_kernel(found.calls[i].name)) fprintf(stderr, "mark %zu %s\n", i, found.calls[i].name);
  }
  free(found.ms);
  pf_close(session);
  if (fflush(stdout) != 0) fail("cannot write the result: %s", strerror(errno));
  return 0;
}
