// The processor's features by Linux's words for them, and its cores.
#ifndef POCKETFORMER_CPU_H_
#define POCKETFORMER_CPU_H_

#include <set>
#include <string>
#include <vector>

namespace pocketformer {

// The words of /proc/cpuinfo ("asimddp", "avx2"); empty where the system does not tell. On ARM they
// come from the kernel's auxiliary vector, which also an emulator fills in for its processor.
const std::set<std::string>& ProcessorWords();

// What code that needs `isa` (a target's names) and `features` (LLVM's) would miss here, each once.
std::vector<std::string> MissingInstructions(const std::vector<std::string>& isa,
                                             const std::vector<std::string>& features);

// The CPUs that this thread may run on.
std::vector<int> UsableCpus();

// Cores of one kind; `max_mhz` is 0 where the system does not tell.
struct Cores {
  std::string name;
  int count;
  int max_mhz;
};

// All cores of the machine, kinds in the order of their first CPU.
std::vector<Cores> AllCores();

// Whether this process runs in qemu's user mode, where files tell of another machine.
bool IsEmulated();

}  // namespace pocketformer

#endif  // POCKETFORMER_CPU_H_
