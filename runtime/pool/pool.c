/* A team's launch: every thread owns a range of tasks and takes them in order, since neighbours share
   data; one that is done with its own takes half of what another has left. TVM cuts a loop of few
   iterations into a task for each, and the rest of the tasks have nothing to do: wherever the work
   lies, halving finds it. A range carries the number of its launch, so that a worker that comes late,
   with an older number, gets nothing.

   No lock is held anywhere, and what a process owns bears its number: a fork() finds nothing locked,
   and the child's teams begin anew. */
#define _GNU_SOURCE
#include "pool.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#include "range.h"
#include "wait.h"

enum {
  LINE = 128,            /* bytes; x86 fetches cache lines in pairs of 64, some ARM cores have 128 */
  TEAMS = 64,            /* runs at once; one more works alone */
  TASKS = 64,            /* of a loop at least, so that few are waited for at its end ... */
  TASKS_A_THREAD = 16,   /* ... with many threads, too; a task that has nothing to do takes 5 ns */
  MOST_TASKS = 65535,    /* that a range has bits for */
  STACK = 1 << 20,       /* bytes; musl would give 128 KiB */
};

/* How long a worker looks for the run's next loop, and a caller for the end of its own, before they
   sleep. To be woken takes 5 to 50 us, the last task of a loop up to some hundred. Who sleeps leaves
   its core to a worker that another program keeps from working. */
static const int64_t AWAKE_NS = 200000, PATIENCE_NS = 200000;

typedef struct member {
  _Alignas(LINE) _Atomic range left;
  struct pool_team* team;
  pthread_t thread;
} member;

typedef struct pool_team {
  _Atomic pid_t owner;    /* the process that has a run in it, 0: none */
  pid_t process;          /* whose threads the workers are */
  _Atomic int threads;    /* 0: between two sizes */
  int started;            /* counts the caller */
  int busy;               /* the caller is in a launch */
  _Atomic int running, stopped;
  _Atomic(pool_task) task;
  _Atomic(void*) data;
  _Atomic int tasks;
  _Atomic int failed;     /* a task did: the others are left out */
  _Atomic(void*) error;   /* the first one's */
  _Alignas(LINE) _Atomic uint32_t launch;    /* its number; workers sleep on it */
  _Atomic int asleep;
  _Alignas(LINE) _Atomic uint32_t pending;   /* tasks that are not done; the caller sleeps on it */
  _Atomic int waiting;
  _Atomic(member*) members;    /* as many as threads */
} pool_team;

static _Atomic(pool_team*) teams[TEAMS];
static pthread_key_t current;    /* the thread's team; `alone` in a worker and for one thread */
static int has_key;
static char alone;

/* The next task of one's own, -1 if there is none. */
static int next_task(member* mine, uint32_t launch) {
  range seen = atomic_load(&mine->left);
  while (count_of(seen, launch)) {
    if (atomic_compare_exchange_weak(&mine->left, &seen, seen + 1)) return (int)begin_of(seen);
  }
  return -1;
}

/* Takes half of what the thread with the most has left, rounded up; 0 if nobody has any. */
static int take_over(pool_team* team, member* mine, uint32_t launch) {
  for (;;) {
    member* most = NULL;
    range seen = 0;
    for (int i = 0; i < team->threads; ++i) {
      const range left = atomic_load(&team->members[i].left);
      if (count_of(left, launch) <= count_of(seen, launch)) continue;
      most = &team->members[i];
      seen = left;
    }
    if (!most) return 0;
    const uint32_t middle = begin_of(seen) + count_of(seen, launch) / 2;
    if (atomic_compare_exchange_strong(&most->left, &seen,
                                       range_of(launch, begin_of(seen), middle))) {
      atomic_store(&mine->left, range_of(launch, middle, end_of(seen)));
      return 1;
    }
  }
}

static void fail(pool_team* team) {
  void *none = NULL, *error = NULL;
  atomic_store(&team->failed, 1);
  TVMFFIErrorMoveFromRaised(&error);
  if (error && !atomic_compare_exchange_strong(&team->error, &none, error)) {
    TVMFFIObjectDecRef(error);
  }
}

static int raise_again(pool_team* team) {
  void* const error = atomic_exchange(&team->error, NULL);
  if (error) {
    TVMFFIErrorSetRaised(error);
    TVMFFIObjectDecRef(error);
  }
  return -1;
}

/* Does tasks of the launch until none is left. What was read of another launch than it takes from
   cannot be used: that succeeds only while that launch lasts. */
static void work(pool_team* team, member* mine, uint32_t launch) {
  const pool_task task = atomic_load(&team->task);
  void* const data = atomic_load(&team->data);
  pool_loop loop = {NULL, atomic_load(&team->tasks)};
  uint32_t done = 0;
  do {
    for (int number; (number = next_task(mine, launch)) >= 0; ++done) {
      if (!atomic_load(&team->failed) && task(number, &loop, data)) fail(team);
    }
  } while (take_over(team, mine, launch));
  if (done && atomic_fetch_sub(&team->pending, done) == done && atomic_load(&team->waiting)) {
    futex(&team->pending, FUTEX_WAKE, 1);
  }
}

static void* worker(void* argument) {
  member* const mine = argument;
  pool_team* const team = mine->team;
  pthread_setspecific(current, &alone);
  uint32_t seen = atomic_load(&team->launch) - 1;
  while (!atomic_load(&team->stopped)) {
    const uint32_t launch = atomic_load(&team->launch);
    if (launch != seen) {
      work(team, mine, seen = launch);
    } else if (!await(&team->launch, 0, seen, &team->running, AWAKE_NS)) {
      atomic_fetch_add(&team->asleep, 1);
      futex(&team->launch, FUTEX_WAIT, seen);
      atomic_fetch_sub(&team->asleep, 1);
    }
  }
  return NULL;
}

static void wake(pool_team* team) {
  if (atomic_load(&team->asleep)) futex(&team->launch, FUTEX_WAKE, INT_MAX);
}

/* Starts the workers; without those that the system refuses the work is done, too. */
static void start(pool_team* team) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes)) return;
  pthread_attr_setstacksize(&attributes, STACK);
  sigset_t all, before;    /* signals are for the threads of the program */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (team->started < team->threads) {
    member* const each = &team->members[team->started];
    each->team = team;
    if (pthread_create(&each->thread, &attributes, worker, each)) break;
    ++team->started;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
}

/* Makes the team this process's, without workers. A child's copy may stem from amidst a launch. */
static void reset(pool_team* team, pid_t process) {
  team->process = process;
  team->started = 1;
  team->busy = 0;
  atomic_store(&team->stopped, 0);
  atomic_store(&team->failed, 0);
  atomic_store(&team->error, NULL);
  atomic_store(&team->asleep, 0);
  atomic_store(&team->waiting, 0);
}

static void* zeros(size_t bytes) {
  void* memory = NULL;
  if (posix_memalign(&memory, LINE, bytes)) return NULL;
  return __builtin_memset(memory, 0, bytes);
}

static void delete_team(pool_team* team) {
  free(atomic_load(&team->members));
  free(team);
}

static pool_team* new_team(int threads, pid_t process) {
  pool_team* const team = zeros(sizeof *team);
  if (!team) return NULL;
  atomic_store(&team->members, zeros((size_t)threads * sizeof(member)));
  if (!atomic_load(&team->members)) {
    delete_team(team);
    return NULL;
  }
  atomic_store(&team->threads, threads);
  atomic_store(&team->owner, process);
  reset(team, process);
  return team;
}

/* Ends the workers of a team that is this process's. Nobody may be in it. */
static void stop(pool_team* team) {
  member* const members = atomic_load(&team->members);
  atomic_store(&team->stopped, 1);
  atomic_fetch_add(&team->launch, 1);
  wake(team);
  for (int worker = 1; worker < team->started; ++worker) {
    pthread_join(members[worker].thread, NULL);
  }
  team->started = 1;
}

/* Gives a team that the caller owns another size. Another thread may fork() at any point: no size is
   told, and no members are, that are not there. */
static int resize(pool_team* team, int threads, pid_t process) {
  member* const members = zeros((size_t)threads * sizeof(member));
  if (!members) return 0;
  if (team->process == process) stop(team);
  atomic_store(&team->threads, 0);
  free(atomic_exchange(&team->members, NULL));
  atomic_store(&team->members, members);
  reset(team, process);
  atomic_store(&team->threads, threads);
  return 1;
}

/* A team of another size that nobody is in, made one of so many threads; NULL if there is none. */
static pool_team* take_other(int threads, pid_t process) {
  for (int i = 0; i < TEAMS; ++i) {
    pool_team* const team = atomic_load(&teams[i]);
    pid_t owner = atomic_load(&team->owner);
    if (owner == process || !atomic_compare_exchange_strong(&team->owner, &owner, process)) continue;
    if (resize(team, threads, process)) return team;
    atomic_store(&team->owner, 0);
    return NULL;
  }
  return NULL;
}

/* A team of so many threads that nobody is in, NULL if there is none and no place for one. */
static pool_team* take(int threads) {
  const pid_t process = getpid();
  for (int i = 0; i < TEAMS; ++i) {
    pool_team* team = atomic_load(&teams[i]);
    if (!team) {
      pool_team* const made = new_team(threads, process);
      if (!made || atomic_compare_exchange_strong(&teams[i], &team, made)) return made;
      delete_team(made);    /* another thread was faster: `team` is now that one's */
    }
    pid_t owner = atomic_load(&team->owner);
    if (atomic_load(&team->threads) != threads || owner == process) continue;
    if (!atomic_compare_exchange_strong(&team->owner, &owner, process)) continue;
    if (atomic_load(&team->threads) != threads) {    /* it has changed hands since */
      atomic_store(&team->owner, 0);
      continue;
    }
    if (team->process != process) reset(team, process);
    return team;
  }
  return take_other(threads, process);
}

pool_run pool_enter(int threads) {
  pool_run run = {NULL, NULL};
  if (!has_key) return run;
  run.before = pthread_getspecific(current);
  if (run.before != &alone && threads > 1) run.team = take(threads);
  pthread_setspecific(current, run.team ? (void*)run.team : &alone);
  if (run.team) {
    atomic_store(&run.team->running, 1);
    if (atomic_load(&run.team->asleep)) {    /* they are awake when the first loop comes */
      atomic_fetch_add(&run.team->launch, 1);
      wake(run.team);
    }
  }
  return run;
}

void pool_leave(pool_run run) {
  if (!has_key) return;
  pthread_setspecific(current, run.before);
  if (!run.team) return;
  atomic_store(&run.team->running, 0);
  atomic_store(&run.team->owner, 0);
}

int pool_entered(void) { return has_key && pthread_getspecific(current) != NULL; }

static int work_alone(pool_task task, void* data, int tasks) {
  pool_loop loop = {NULL, tasks > 0 ? tasks : 1};
  for (int i = 0; i < loop.num_task; ++i) {
    if (task(i, &loop, data)) return -1;
  }
  return 0;
}

int pool_launch(pool_task task, void* data, int tasks) {
  void* const value = has_key ? pthread_getspecific(current) : NULL;
  if (!value || value == &alone) return work_alone(task, data, tasks);
  pool_team* const team = value;
  if (team->busy || tasks > MOST_TASKS) return work_alone(task, data, tasks);
  if (team->started < team->threads) start(team);
  if (tasks <= 0) {
    tasks = TASKS > TASKS_A_THREAD * team->threads ? TASKS : TASKS_A_THREAD * team->threads;
  }
  team->busy = 1;
  const uint32_t launch = atomic_load(&team->launch) + 1;
  atomic_store(&team->task, task);
  atomic_store(&team->data, data);
  atomic_store(&team->tasks, tasks);
  atomic_store(&team->pending, (uint32_t)tasks);
  for (int i = 0; i < team->threads; ++i) {
    const uint32_t begin = (uint32_t)(tasks * i / team->threads);
    const uint32_t end = (uint32_t)(tasks * (i + 1) / team->threads);
    atomic_store(&team->members[i].left, range_of(launch, begin, end));
  }
  atomic_store(&team->launch, launch);
  wake(team);
  work(team, &team->members[0], launch);
  if (!await(&team->pending, 1, 0, NULL, PATIENCE_NS)) {
    atomic_store(&team->waiting, 1);
    uint32_t left;
    while ((left = atomic_load(&team->pending))) futex(&team->pending, FUTEX_WAIT, left);
    atomic_store(&team->waiting, 0);
  }
  team->busy = 0;
  return atomic_exchange(&team->failed, 0) ? raise_again(team) : 0;
}

__attribute__((constructor)) static void open_pool(void) {
  has_key = pthread_key_create(&current, NULL) == 0;
}

/* The code goes: no worker may be left in it. */
__attribute__((destructor)) static void close_pool(void) {
  for (int i = 0; i < TEAMS; ++i) {
    pool_team* const team = atomic_load(&teams[i]);
    if (!team || team->process != getpid() || atomic_load(&team->owner)) continue;
    stop(team);
    delete_team(team);
    atomic_store(&teams[i], NULL);
  }
  if (!has_key) return;
  has_key = 0;
  pthread_key_delete(current);
}
