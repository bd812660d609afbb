/* Tasks that a thread has left. */
#ifndef POCKETFORMER_POOL_RANGE_H_
#define POCKETFORMER_POOL_RANGE_H_

#include <stdint.h>

/* The tasks from `begin` to before `end`, in one number: launch << 32 | end << 16 | begin. */
typedef uint64_t range;

static inline range range_of(uint32_t launch, uint32_t begin, uint32_t end) {
  return (range)launch << 32 | end << 16 | begin;
}

static inline uint32_t begin_of(range tasks) { return (uint32_t)tasks & 0xffff; }
static inline uint32_t end_of(range tasks) { return (uint32_t)tasks >> 16; }

/* How many tasks of the launch it has. */
static inline uint32_t count_of(range tasks, uint32_t launch) {
  return tasks >> 32 == launch ? end_of(tasks) - begin_of(tasks) : 0;
}

#endif /* POCKETFORMER_POOL_RANGE_H_ */
