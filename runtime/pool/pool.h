/* Threads that share the parallel loops of kernels.

   A thread that runs a model enters a team for as long as the run takes, and pool_launch then gives
   every loop to that team. The caller works too and waits for nobody who has not begun: a loop is cut
   into more tasks than there are threads, each thread has a range of them, and one that is done with
   its own takes half of what another has left: where another program has a core, or a core is slow,
   the others do its share. Between the loops of a run the workers keep looking for the next one for
   a moment; after the run they sleep. */
#ifndef POCKETFORMER_POOL_H_
#define POCKETFORMER_POOL_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* TVM's: what a task is told of its loop, and a task. It does its share, TASK of NUM_TASK, of the
   loop's iterations and returns 0, or raises an error in TVM's way and returns another number. */
typedef struct pool_loop {
  void* sync_handle;    /* of barriers, which no kernel of ours has */
  int32_t num_task;
} pool_loop;

typedef int (*pool_task)(int task, pool_loop* loop, void* data);

/* A thread's stay in a team. */
typedef struct pool_run {
  struct pool_team* team;    /* NULL: the thread works alone */
  void* before;              /* what it was in when it entered */
} pool_run;

/* Has loops of this thread shared by `threads` threads, itself among them, until `pool_leave`. The
   same thread has to leave, and leaves last what it entered first. Where no team or thread is to be
   had, it does the work alone. Threads are started by the first loop, and kept. */
pool_run pool_enter(int threads);
void pool_leave(pool_run run);

/* Whether the calling thread is in a run, or is a worker of one. */
int pool_entered(void);

/* Runs all tasks of a loop: `tasks` of them, 0 for a number that suits the team. Returns 0, or after
   a failed task -1 with the first error raised in this thread; then some tasks were left out. A
   thread outside of a run, and a task that launches a loop itself, do all of it themselves. */
int pool_launch(pool_task task, void* data, int tasks);

#ifdef __cplusplus
}
#endif

#endif /* POCKETFORMER_POOL_H_ */
