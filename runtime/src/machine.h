// What this machine is, in the words of the manifest's target.
#ifndef POCKETFORMER_MACHINE_H_
#define POCKETFORMER_MACHINE_H_

#include <set>
#include <string>

namespace pocketformer {

// "x86_64", "aarch64" or "arm"; "linux" or "android".
const char* Architecture();
const char* System();

// The instruction sets by the names of a target's `isa`: neon, dotprod, i8mm, avx2 ...
const std::set<std::string>& InstructionSets();

// {"arch", "os", "isa": [...], "cores": [{"name", "count", "max_mhz"}...], "memory_bytes", "model",
//  "emulated": bool, "runtime": {"pocketformer", "tvm"}}; what cannot be read is null.
std::string MachineJson();

}  // namespace pocketformer

#endif  // POCKETFORMER_MACHINE_H_
