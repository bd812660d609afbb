#include "cpu.h"

#include <algorithm>
#include <map>
#include <sched.h>
#include <sstream>
#include <unistd.h>
#if defined(__arm__) || defined(__aarch64__)
#include <sys/auxv.h>
#ifndef AT_HWCAP2
#define AT_HWCAP2 26
#endif
#endif

#include "files.h"
#include "machine.h"

namespace pocketformer {
namespace {

using Words = std::set<std::string>;
using Table = std::map<std::string, std::string>;

std::vector<std::string> Split(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// compiler/machine.py's FEATURES: the words that together make up a name of a target's `isa`.
const Table kInstructionSets = {
#if defined(__x86_64__)
    {"sse4", "sse4_1 sse4_2"},
    {"avx", "avx"},
    {"avx2", "avx2"},
    {"fma", "fma"},
    {"avx512f", "avx512f avx512bw avx512cd avx512dq avx512vl"},
    {"avx512vnni", "avx512_vnni"},
    {"avx512bf16", "avx512_bf16"},
#else
    {"neon", "asimd"},
    {"dotprod", "asimddp"},
    {"fp16", "fphp asimdhp"},
    {"i8mm", "i8mm"},
#if defined(__aarch64__)
    {"bf16", "bf16"},
    {"sve", "sve"},
    {"sve2", "sve2"},
#endif
#endif
};

// targets/host.py's WORDS: LLVM's feature -> its word, where the two differ.
const Table kLlvmWords = {
#if defined(__x86_64__)
    {"sse4.1", "sse4_1"},
    {"sse4.2", "sse4_2"},
    {"bmi", "bmi1"},
    {"lzcnt", "abm"},
    {"avx512vbmi2", "avx512_vbmi2"},
    {"avx512vnni", "avx512_vnni"},
    {"avx512bf16", "avx512_bf16"},
    {"avx512fp16", "avx512_fp16"},
    {"avx512bitalg", "avx512_bitalg"},
    {"avx512vpopcntdq", "avx512_vpopcntdq"},
    {"avxvnni", "avx_vnni"},
#elif defined(__aarch64__)
    {"neon", "asimd"},
    {"crc", "crc32"},
    {"lse", "atomics"},
    {"rdm", "asimdrdm"},
    {"fullfp16", "asimdhp"},
    {"fp16fml", "asimdfhm"},
    {"dotprod", "asimddp"},
    {"complxnum", "fcma"},
    {"jsconv", "jscvt"},
    {"rcpc", "lrcpc"},
#endif
};

#if defined(__arm__) || defined(__aarch64__)

struct Bit {
  int bit;
  const char* word;
};

// The bits of AT_HWCAP and AT_HWCAP2, which the kernel's ABI fixes, as far as a target needs them.
#if defined(__aarch64__)
constexpr Bit kFirst[] = {{1, "asimd"},    {3, "aes"},       {4, "pmull"},    {5, "sha1"},
                          {6, "sha2"},     {7, "crc32"},     {8, "atomics"},  {9, "fphp"},
                          {10, "asimdhp"}, {11, "cpuid"},    {12, "asimdrdm"}, {13, "jscvt"},
                          {14, "fcma"},    {15, "lrcpc"},    {20, "asimddp"},  {22, "sve"},
                          {23, "asimdfhm"}};
constexpr Bit kSecond[] = {{1, "sve2"}, {13, "i8mm"}, {14, "bf16"}, {23, "sme"}};
#else
constexpr Bit kFirst[] = {{12, "neon"},    {12, "asimd"},   {16, "vfpv4"},    {17, "idiva"},
                          {22, "fphp"},    {23, "asimdhp"}, {24, "asimddp"},  {25, "asimdfhm"},
                          {26, "asimdbf16"}, {27, "i8mm"}};
constexpr Bit kSecond[] = {{0, "aes"}, {1, "pmull"}, {2, "sha1"}, {3, "sha2"}, {4, "crc32"}};
#endif

Words ReadWords() {
  Words words;
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  for (const Bit& each : kFirst) {
    if (first >> each.bit & 1) words.insert(each.word);
  }
  for (const Bit& each : kSecond) {
    if (second >> each.bit & 1) words.insert(each.word);
  }
  return words;
}

#else

Words ReadWords() {
  std::istringstream lines(ReadSystemFile("/proc/cpuinfo"));
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    const std::vector<std::string> words = Split(line.substr(line.find(':') + 1));
    return {words.begin(), words.end()};
  }
  return {};
}

#endif

}  // namespace

const Words& ProcessorWords() {
  static const Words words = ReadWords();
  return words;
}

const Words& InstructionSets() {
  static const Words names = [] {
    Words found;
    for (const auto& [name, needs] : kInstructionSets) {
      const std::vector<std::string> words = Split(needs);
      if (std::all_of(words.begin(), words.end(),
                      [](const std::string& word) { return ProcessorWords().contains(word); })) {
        found.insert(name);
      }
    }
    return found;
  }();
  return names;
}

std::vector<std::string> MissingInstructions(const std::vector<std::string>& isa,
                                             const std::vector<std::string>& features) {
  std::vector<std::string> missing;
  if (ProcessorWords().empty()) return missing;
  const auto add = [&](const std::string& name, bool here) {
    if (!here && std::find(missing.begin(), missing.end(), name) == missing.end()) {
      missing.push_back(name);
    }
  };
  for (const std::string& name : isa) add(name, InstructionSets().contains(name));
  for (const std::string& name : features) {
    const auto word = kLlvmWords.find(name);
    add(name, ProcessorWords().contains(word == kLlvmWords.end() ? name : word->second));
  }
  return missing;
}

std::vector<int> UsableCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

}  // namespace pocketformer
