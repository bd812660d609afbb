/* The command line of pocketformer_run. */
#ifndef POCKETFORMER_RUN_OPTIONS_H_
#define POCKETFORMER_RUN_OPTIONS_H_

#include "common.h"

#define MOST_NAMED 256
#define MOST_RUNS 1000000

static const char help[] =
    "pocketformer_run BUNDLE [OPTIONS]\n"
    "Runs a bundle on this device and prints how long it takes.\n"
    "\n"
    "  --input NAME=FILE.npy  an input's values; inputs that are not given are filled with ones\n"
    "  --dim NAME=SIZE        the size of a named dimension, for inputs that are not given\n"
    "  --output FOLDER        write the outputs to FOLDER/NAME.npy\n"
    "  --threads N            how many threads kernels use (what the bundle prefers)\n"
    "  --warmup N             runs that are not timed (1)\n"
    "  --runs N               runs that are timed (10)\n"
    "  --json                 print one JSON object\n"
    "  --profile              one run more, with the time of every kernel\n"
    "  --mark                 one run more, with system calls around every kernel, and what their\n"
    "                         numbers stand for on stderr: for an instruction counter\n"
    "  --version              print the versions of pocketformer and TVM\n"
    "  --help                 print this\n";

/* NAME=VALUE of an option that is given several times. */
typedef struct {
  const char* name;
  const char* value;
} named;

typedef struct {
  const char* bundle;
  const char* output;
  named inputs[MOST_NAMED];
  int input_count;
  const char* dim_names[MOST_NAMED];
  int64_t dim_sizes[MOST_NAMED];
  int dim_count;
  int threads, warmup, runs;
  int json, profile, mark;
} options;

/* `text` as a whole number from `least` to `most`. */
static int64_t number(const char* option, const char* text, int64_t least, int64_t most) {
  int64_t value = 0;
  int fine = *text != '\0';
  for (const char* at = text; *at && fine; ++at) {
    fine = *at >= '0' && *at <= '9' && value <= most;
    value = 10 * value + (*at - '0');
  }
  if (fine && value >= least && value <= most) return value;
  fail("%s is %s, it must be a whole number from %lld to %lld", option, text, (long long)least,
       (long long)most);
}

static named split(const char* option, char* text) {
  /* The last '=': an input's name may have some of its own. */
  char* equals = strcmp(option, "--dim") == 0 ? strchr(text, '=') : strrchr(text, '=');
  if (!equals || equals == text || !equals[1]) fail("%s %s is not NAME=VALUE", option, text);
  *equals = '\0';
  return (named){text, equals + 1};
}

static void take_named(options* result, const char* option, char* text) {
  const named pair = split(option, text);
  if (result->input_count == MOST_NAMED || result->dim_count == MOST_NAMED) {
    fail("%s is given too often", option);
  }
  if (strcmp(option, "--input") == 0) {
    for (int i = 0; i < result->input_count; ++i) {
      if (strcmp(result->inputs[i].name, pair.name) == 0) fail("%s is given twice", pair.name);
    }
    result->inputs[result->input_count++] = pair;
    return;
  }
  for (int i = 0; i < result->dim_count; ++i) {
    if (strcmp(result->dim_names[i], pair.name) == 0) fail("%s is given twice", pair.name);
  }
  result->dim_names[result->dim_count] = pair.name;
  result->dim_sizes[result->dim_count++] = number(option, pair.value, 1, INT32_MAX);
}

static int take_switch(options* result, const char* option) {
  if (strcmp(option, "--json") == 0) return result->json = 1;
  if (strcmp(option, "--profile") == 0) return result->profile = 1;
  if (strcmp(option, "--mark") == 0) return result->mark = 1;
  if (strcmp(option, "--help") == 0) {
    fputs(help, stdout);
    exit(0);
  }
  if (strcmp(option, "--version") == 0) {
    printf("pocketformer %s (TVM %s)\n", pf_version(), pf_tvm_version());
    exit(0);
  }
  return 0;
}

static void take_value(options* result, const char* option, char* value) {
  if (strcmp(option, "--input") == 0 || strcmp(option, "--dim") == 0) {
    take_named(result, option, value);
  } else if (strcmp(option, "--output") == 0) {
    result->output = value;
  } else if (strcmp(option, "--threads") == 0) {
    result->threads = (int)number(option, value, 1, 4096);
  } else if (strcmp(option, "--warmup") == 0) {
    result->warmup = (int)number(option, value, 0, MOST_RUNS);
  } else {
    result->runs = (int)number(option, value, 0, MOST_RUNS);
  }
}

static options read_options(int count, char** words) {
  static const char* const with_value[] = {"--input",  "--dim",    "--output",
                                           "--threads", "--warmup", "--runs"};
  options result = {0};
  result.warmup = 1;
  result.runs = 10;
  for (int i = 1; i < count; ++i) {
    if (strncmp(words[i], "-", 1) != 0) {
      if (result.bundle) fail("%s and %s: only one bundle can be run", result.bundle, words[i]);
      result.bundle = words[i];
      continue;
    }
    if (take_switch(&result, words[i])) continue;
    int known = 0;
    for (size_t k = 0; k < sizeof with_value / sizeof *with_value; ++k) {
      known |= strcmp(words[i], with_value[k]) == 0;
    }
    if (!known) fail("there is no option %s; --help lists them", words[i]);
    if (i + 1 == count) fail("%s wants a value", words[i]);
    take_value(&result, words[i], words[i + 1]);
    ++i;
  }
  if (!result.bundle) fail("no bundle is given; --help tells more");
  if (result.warmup + result.runs == 0 && !result.profile && !result.mark) {
    fail("--warmup 0 and --runs 0 leave nothing to run");
  }
  return result;
}

#endif /* POCKETFORMER_RUN_OPTIONS_H_ */
