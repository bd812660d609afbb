/* Loops for the pool, checked here rather than in Python: kernels take microseconds. Every function
   returns 0, or the number of what was wrong. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#include "pool/pool.h"

enum {
  MOST = 5000,
  PATIENCE = 60,    /* seconds for a thread to get a core; a child of fork() has thrice that */
};

typedef struct {
  int extent;
  unsigned char seen[MOST];    /* how often each iteration ran */
  unsigned number;             /* 0: its threads are not counted */
  _Atomic int threads;         /* how many came along */
  int nested, fails_at;
  _Atomic int nested_wrong;
} loop;

static _Atomic unsigned numbers;
static _Thread_local unsigned noted;    /* the loop that has counted this thread */

static void note_thread(loop* my) {
  if (noted == my->number) return;
  noted = my->number;
  atomic_fetch_add(&my->threads, 1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int count_one(int task, pool_loop* env, void* data) {
  (void)task, (void)env;
  ++*(int*)data;    /* not atomic: an inner loop stays in its thread */
  return 0;
}

/* As TVM cuts a loop: every task takes as many iterations, the last ones fewer or none. */
static int body(int task, pool_loop* env, void* data) {
  loop* const my = data;
  const int step = (my->extent + env->num_task - 1) / env->num_task;
  for (int i = task * step; i < (task + 1) * step && i < my->extent; ++i) {
    ++my->seen[i];
    if (my->nested) {
      int inner = 0;
      if (pool_launch(count_one, &inner, 3) || inner != 3) atomic_store(&my->nested_wrong, 1);
    }
    if (i == my->fails_at) {
      TVMFFIErrorSetRaisedFromCStr("ValueError", "it was too hot");
      return -1;
    }
  }
  note_thread(my);
  return 0;
}

static int all_once(const loop* my) {
  for (int i = 0; i < my->extent; ++i) {
    if (my->seen[i] != 1) return 1;
  }
  return 0;
}

int check_loops(int threads, int launches, int nested) {
  loop* const my = calloc(1, sizeof *my);
  int wrong = 0;
  unsigned random = 1;
  const pool_run run = pool_enter(threads);
  for (int i = 0; i < launches && !wrong; ++i) {
    random = random * 1103515245 + 12345;
    my->extent = (int)(random >> 16) % (i % 4 ? 70 : MOST);
    my->nested = nested;
    my->fails_at = -1;
    memset(my->seen, 0, sizeof my->seen);
    if (pool_launch(body, my, i % 3 ? 0 : 1 + (int)(random >> 20) % 40)) wrong = 1;
    if (all_once(my)) wrong = 2;
    if (atomic_load(&my->nested_wrong)) wrong = 3;
  }
  pool_leave(run);
  free(my);
  return wrong;
}

/* Several programs' threads with runs of their own, short ones: teams change hands. */
static void* run_often(void* data) {
  const int threads = (int)(long)data;
  for (int i = 0; i < 300; ++i) {
    if (check_loops(threads + i % 2, 5, 0)) return (void*)1;
  }
  return NULL;
}

int check_callers(int callers, int threads) {
  pthread_t all[200];
  int wrong = 0;
  int started = 0;
  while (started < callers &&
         !pthread_create(&all[started], NULL, run_often, (void*)(long)threads)) ++started;
  if (started < callers) wrong = 2;
  for (int i = 0; i < started; ++i) {
    void* result;
    pthread_join(all[i], &result);
    wrong |= result != NULL;
  }
  return wrong;
}

/* The failure of one iteration, wherever it runs, is the caller's, and the next loop runs again. */
int check_failure(int threads, int at) {
  loop* const my = calloc(1, sizeof *my);
  const pool_run run = pool_enter(threads);
  int wrong = 0;
  my->extent = 60;
  my->fails_at = at;
  if (pool_launch(body, my, 0) != -1) wrong = 1;
  void* error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (!error) {
    wrong = 2;
  } else {
    const TVMFFIErrorCell* const cell = (void*)((TVMFFIObject*)error + 1);
    if (memcmp(cell->message.data, "it was too hot", cell->message.size)) wrong = 3;
    TVMFFIObjectDecRef(error);
  }
  memset(my->seen, 0, sizeof my->seen);
  my->fails_at = -1;
  if (pool_launch(body, my, 0) || all_once(my)) wrong = 4;
  pool_leave(run);
  free(my);
  return wrong;
}

/* A task that others have to finish while it runs: they must not wait for their turn. */
static _Atomic int others;

static int slow_first(int task, pool_loop* env, void* data) {
  (void)data;
  if (task) {
    atomic_fetch_add(&others, 1);
  } else {
    const double end = now() + PATIENCE;
    while (atomic_load(&others) < env->num_task - 1) {
      if (now() > end) return 1;
      sched_yield();
    }
  }
  return 0;
}

/* Whether a thread that is held up by one task leaves all others to the other threads. */
int check_no_share_is_bound(int threads, int tasks) {
  atomic_store(&others, 0);
  const pool_run run = pool_enter(threads);
  const int wrong = pool_launch(slow_first, NULL, tasks) != 0;
  pool_leave(run);
  return wrong;
}

/* How many threads took part in many loops, so that too many would show; the loops go on for a while
   where other programs keep a thread from a core. */
int threads_of_many_loops(int threads) {
  loop* const my = calloc(1, sizeof *my);
  const pool_run run = pool_enter(threads);
  const double end = now() + PATIENCE;
  my->number = atomic_fetch_add(&numbers, 1) + 1;
  my->extent = MOST;
  my->fails_at = -1;
  for (int i = 0; i < 2000 || (atomic_load(&my->threads) < threads && now() < end); ++i) {
    pool_launch(body, my, 0);
  }
  pool_leave(run);
  const int found = atomic_load(&my->threads);
  free(my);
  return found;
}

/* How many runs at once get teams of so many threads; -1 if a loop of one is wrong. */
int teams_at_once(int threads) {
  enum { RUNS = 100 };
  pool_run runs[RUNS];
  int found = 0, wrong = 0;
  for (int i = 0; i < RUNS; ++i) {
    runs[i] = pool_enter(threads);
    found += runs[i].team != NULL;
    loop my = {.extent = 40, .fails_at = -1};
    wrong |= pool_launch(body, &my, 0) || all_once(&my);
  }
  for (int i = RUNS; i--;) pool_leave(runs[i]);
  return wrong ? -1 : found;
}

/* Runs in a run in a run, of the same thread. */
int check_runs_within_runs(void) {
  const pool_run outer = pool_enter(2);
  const int first = check_loops(3, 50, 0);
  const int second = check_loops(1, 50, 0);
  loop my = {.extent = 40, .fails_at = -1};
  int wrong = pool_launch(body, &my, 0) || all_once(&my);
  pool_leave(outer);
  return first || second || wrong || pool_entered();
}

/* What a child of fork() can do with teams whose threads it has not: while the parent was in a run, or
   in none. Its exit code, 100 if it had to be killed. */
int fork_and_check(int within, int threads) {
  if (check_loops(threads, 100, 0)) return 50;
  pool_run run = {0};
  if (within) run = pool_enter(threads);
  const pid_t child = fork();
  if (child == 0) {
    int wrong = 0;
    if (within) {
      loop my = {.extent = 40, .fails_at = -1};
      wrong = pool_launch(body, &my, 0) || all_once(&my);
      pool_leave(run);
    }
    wrong |= check_loops(threads, 500, 0);
    wrong |= threads_of_many_loops(threads) != threads;
    exit(wrong);    /* as a program ends, with what the pool does then */
  }
  if (within) pool_leave(run);
  int status = 0;
  for (const double end = now() + 3 * PATIENCE; now() < end; usleep(10000)) {
    if (waitpid(child, &status, WNOHANG) == child) {
      return WIFEXITED(status) ? WEXITSTATUS(status) : 60;
    }
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return 100;
}

/* All of it in short, for a processor that cannot run the tests themselves. */
int main(void) {
  for (int threads = 1; threads <= 4; ++threads) {
    if (check_loops(threads, 300, 0) || check_loops(threads, 50, 1)) return 1;
  }
  if (check_callers(3, 2)) return 2;
  if (check_failure(2, 59) || check_failure(4, 0)) return 3;
  if (check_no_share_is_bound(2, 64)) return 4;
  if (check_runs_within_runs()) return 5;
  return threads_of_many_loops(2) == 2 ? 0 : 6;
}
