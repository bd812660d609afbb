// A QEMU plugin: how often did every block of an emulated program run, within marked regions?
//
// The program marks with system call 0x5155 (phase, index): an odd phase opens a region, the next
// even one closes it. Regions of different phases may nest. When one is closed, this is written:
//   code ID ADDRESS WORD...     a block and its 32-bit instructions in hexadecimal, at first sight
//   region PHASE INDEX          the odd phase
//   ID TIMES                    every block that ran in the region
//   end
// What the instructions do is for the reader to find out. Only the thread that marks is counted: a
// library's threads for logs and the like would make every run another.

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The part of QEMU's plugin interface (version 1, QEMU 4.2 to 8.2) that is used here: its header is
// in no package of Debian 12.
typedef uint64_t PluginId;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
enum { kReadsNoRegisters = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(PluginId, void (*)(PluginId, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb*, void (*)(unsigned vcpu, void*),
                                          int flags, void*);
void qemu_plugin_register_vcpu_syscall_cb(PluginId,
                                          void (*)(PluginId, unsigned vcpu, int64_t number,
                                                   uint64_t, uint64_t, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { kMark = 0x5155, kPhases = 8, kBuckets = 1 << 16 };

typedef struct Block {
  struct Block* next_in_bucket;
  struct Block* next;
  uint64_t runs;               // in the marking thread, since its first mark
  uint64_t at_open[kPhases];   // `runs` when the region of that phase was opened
  uint64_t address;
  uint32_t id;
  uint32_t length;
  bool told;
  uint32_t words[];
} Block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   // threads translate and call at a time
static Block* buckets[kBuckets];
static Block* first;
static uint32_t count;
static bool open[kPhases];
static unsigned marking = UINT32_MAX;                      // QEMU's number of the marking thread
static FILE* out;

// The block of these instructions at this address. QEMU translates one again when its own cache is
// full, and other code may come to lie at an address.
static Block* find(uint64_t address, const uint32_t* words, uint32_t length) {
  Block** bucket = &buckets[(address / 4 + length) % kBuckets];
  for (Block* block = *bucket; block; block = block->next_in_bucket) {
    if (block->address == address && block->length == length &&
        memcmp(block->words, words, length * sizeof *words) == 0) {
      return block;
    }
  }
  Block* block = calloc(1, sizeof *block + length * sizeof *words);
  if (!block) abort();
  block->address = address;
  block->length = length;
  block->id = count++;
  memcpy(block->words, words, length * sizeof *words);
  block->next_in_bucket = *bucket;
  block->next = first;
  *bucket = first = block;
  return block;
}

static void on_execution(unsigned vcpu, void* block) {
  if (vcpu == marking) ((Block*)block)->runs++;
}

static void on_translation(PluginId id, struct qemu_plugin_tb* tb) {
  (void)id;
  size_t length = qemu_plugin_tb_n_insns(tb);
  uint32_t* words = calloc(length, sizeof *words);
  if (!words) abort();
  for (size_t i = 0; i < length; i++) {
    memcpy(&words[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), sizeof *words);
  }
  pthread_mutex_lock(&lock);
  Block* block = find(qemu_plugin_tb_vaddr(tb), words, (uint32_t)length);
  pthread_mutex_unlock(&lock);
  free(words);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_execution, kReadsNoRegisters, block);
}

static void write_region(unsigned phase, uint64_t index) {
  for (Block* block = first; block; block = block->next) {
    if (block->told || block->runs == block->at_open[phase]) continue;
    block->told = true;
    fprintf(out, "code %" PRIu32 " %" PRIx64, block->id, block->address);
    for (uint32_t i = 0; i < block->length; i++) fprintf(out, " %" PRIx32, block->words[i]);
    fputc('\n', out);
  }
  fprintf(out, "region %u %" PRIu64 "\n", phase, index);
  for (Block* block = first; block; block = block->next) {
    uint64_t runs = block->runs - block->at_open[phase];
    if (runs) fprintf(out, "%" PRIu32 " %" PRIu64 "\n", block->id, runs);
  }
  fputs("end\n", out);
  fflush(out);
}

static void on_syscall(PluginId id, unsigned vcpu, int64_t number, uint64_t phase, uint64_t index,
                       uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                       uint64_t a7) {
  (void)id, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7;
  if (number != kMark || phase == 0 || phase > kPhases) return;
  pthread_mutex_lock(&lock);
  if (marking == UINT32_MAX) marking = vcpu;
  if (vcpu != marking) {
    // A second thread's marks would cut the first one's regions.
  } else if (phase % 2) {
    for (Block* block = first; block; block = block->next) block->at_open[phase] = block->runs;
    open[phase] = true;
  } else if (open[phase - 1]) {
    write_region((unsigned)phase - 1, index);
    open[phase - 1] = false;
  }
  pthread_mutex_unlock(&lock);
}

// Its one argument is out=FILE.
__attribute__((visibility("default"))) int qemu_plugin_install(PluginId id, const qemu_info_t* info,
                                                               int argc, char** argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || !(out = fopen(argv[0] + 4, "w"))) {
    fputs("count_blocks: out=FILE must name a file that can be written\n", stderr);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
  return 0;
}
