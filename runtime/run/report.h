/* What pocketformer_run prints: lines for people, or one JSON object. */
#ifndef POCKETFORMER_RUN_REPORT_H_
#define POCKETFORMER_RUN_REPORT_H_

#include "options.h"

typedef struct {
  double open_ms;
  double* ms;    /* of the timed runs, ascending */
  int runs;
  const pf_call* calls;
  size_t call_count;
} measured;

/* The time of all calls of one kernel. */
typedef struct {
  const char* name;
  int calls;
  double ms;
} kernel_time;

static int is_kernel(const char* name) {
  return strncmp(name, "vm.", 3) != 0 && strncmp(name, "shape_func", 10) != 0 &&
         strncmp(name, "compute_symbolic_expr", 21) != 0;
}

/* The most memory that this process had, in bytes; 0 where the system does not tell. */
static long long peak_bytes(void) {
  char line[256];
  long long kilobytes = 0;
  FILE* file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file)) {
    if (sscanf(line, "VmHWM: %lld kB", &kilobytes) == 1) break;
  }
  if (file) fclose(file);
  return kilobytes * 1024;
}

static double percentile(const measured* found, int percent) {
  return found->ms[(found->runs * percent + 99) / 100 - (percent > 0)];
}

static double median(const measured* found) {
  return (found->ms[(found->runs - 1) / 2] + found->ms[found->runs / 2]) / 2;
}

static int slower(const void* a, const void* b) {
  const double difference = ((const kernel_time*)b)->ms - ((const kernel_time*)a)->ms;
  return (difference > 0) - (difference < 0);
}

static void print_profile(const measured* found) {
  kernel_time* kernels = memory(found->call_count * sizeof *kernels);
  int count = 0;
  double all = 0;
  for (size_t i = 0; i < found->call_count; ++i) {
    const pf_call* call = &found->calls[i];
    if (!is_kernel(call->name)) continue;
    int k = 0;
    while (k < count && strcmp(kernels[k].name, call->name) != 0) ++k;
    if (k == count) kernels[count++] = (kernel_time){call->name, 0, 0.0};
    const double ms = (double)(call->end_ns - call->start_ns) / 1e6;
    ++kernels[k].calls;
    kernels[k].ms += ms;
    all += ms;
  }
  qsort(kernels, count, sizeof *kernels, slower);
  for (int k = 0; k < count; ++k) {
    printf("%9.3f ms %5.1f %% %4d x  %s\n", kernels[k].ms, all > 0 ? 100 * kernels[k].ms / all : 0,
           kernels[k].calls, kernels[k].name);
  }
  free(kernels);
}

static void print_text(pf_session* session, const options* chosen, const measured* found) {
  if (found->runs > 0) {
    printf("latency: minimum %.3f ms, median %.3f ms, p90 %.3f ms (%d runs, %d threads)\n",
           found->ms[0], median(found), percentile(found, 90), found->runs, pf_threads(session));
  }
  printf("opened in %.1f ms, peak memory %.1f MB\n", found->open_ms, (double)peak_bytes() / 1e6);
  for (int i = 0; i < pf_output_count(session); ++i) {
    pf_tensor_info info;
    pf_tensor tensor;
    if (pf_describe_output(session, i, &info) || pf_get_output(session, i, &tensor)) {
      fail("%s", pf_last_error());
    }
    printf("%s: %s[", info.name, tensor.dtype);
    for (int k = 0; k < tensor.rank; ++k) {
      printf("%s%lld", k > 0 ? ", " : "", (long long)tensor.shape[k]);
    }
    printf("]\n");
  }
  if (chosen->profile) print_profile(found);
}

static void print_json_text(const char* text) {
  putchar('"');
  for (; *text; ++text) {
    const unsigned char c = (unsigned char)*text;
    if (c < 0x20) {
      printf("\\u%04x", c);
    } else {
      if (c == '"' || c == '\\') putchar('\\');
      putchar(c);
    }
  }
  putchar('"');
}

static void print_json_latency(const measured* found) {
  if (found->runs == 0) {
    printf("null");
    return;
  }
  printf("{\"min\": %.6f, \"median\": %.6f, \"p90\": %.6f}", found->ms[0], median(found),
         percentile(found, 90));
}

static void print_json_outputs(pf_session* session) {
  for (int i = 0; i < pf_output_count(session); ++i) {
    pf_tensor_info info;
    pf_tensor tensor;
    if (pf_describe_output(session, i, &info) || pf_get_output(session, i, &tensor)) {
      fail("%s", pf_last_error());
    }
    printf("%s{\"name\": ", i > 0 ? ", " : "");
    print_json_text(info.name);
    printf(", \"dtype\": \"%s\", \"shape\": [", tensor.dtype);
    for (int k = 0; k < tensor.rank; ++k) {
      printf("%s%lld", k > 0 ? ", " : "", (long long)tensor.shape[k]);
    }
    printf("]}");
  }
}

static void print_json(pf_session* session, const options* chosen, const measured* found) {
  printf("{\"bundle\": ");
  print_json_text(chosen->bundle);
  printf(", \"level\": ");
  print_json_text(pf_level(session));
  printf(", \"threads\": %d, \"runs\": %d, \"open_ms\": %.3f, \"latency_ms\": ",
         pf_threads(session), found->runs, found->open_ms);
  print_json_latency(found);
  printf(", \"peak_bytes\": ");
  const long long peak = peak_bytes();
  printf(peak > 0 ? "%lld" : "null", peak);
  printf(", \"outputs\": [");
  print_json_outputs(session);
  printf("]");
  if (chosen->profile) {
    printf(", \"profile\": [");
    for (size_t i = 0; i < found->call_count; ++i) {
      printf("%s[", i > 0 ? ", " : "");
      print_json_text(found->calls[i].name);
      printf(", %lld, %lld]", (long long)found->calls[i].start_ns,
             (long long)found->calls[i].end_ns);
    }
    printf("]");
  }
  printf("}\n");
}

#endif /* POCKETFORMER_RUN_REPORT_H_ */
