#include "machine.h"

#include <cstdlib>
#include <unistd.h>
#if defined(__ANDROID__)
#include <sys/system_properties.h>
#endif

#include "cpu.h"
#include "files.h"
#include "json.h"
#include "text.h"

namespace pocketformer {
namespace {

std::string List(const std::set<std::string>& words) {
  std::vector<std::string> quoted;
  for (const std::string& word : words) quoted.push_back(Quote(word));
  return "[" + Joined(quoted) + "]";
}

std::string CoresJson() {
  std::vector<std::string> kinds;
  for (const Cores& kind : AllCores()) {
    kinds.push_back("{\"name\": " + Quote(kind.name) +
                    ", \"count\": " + std::to_string(kind.count) + ", \"max_mhz\": " +
                    (kind.max_mhz > 0 ? std::to_string(kind.max_mhz) : "null") + "}");
  }
  return "[" + Joined(kinds) + "]";
}

std::string MemoryJson() {
  const long long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? std::to_string(pages * size) : "null";
}

// What the maker calls the whole device, null where nothing tells.
std::string ModelJson() {
#if defined(__ANDROID__)
  char value[PROP_VALUE_MAX] = "";
  __system_property_get("ro.product.model", value);
  std::string model = value;
#else
  if (IsEmulated()) return "null";
  std::string model = ReadSystemFile("/proc/device-tree/model");
  if (model.empty()) model = ReadSystemFile("/sys/devices/virtual/dmi/id/product_name");
#endif
  model = FirstLine(model.c_str());    // the device tree's texts end in NUL
  return model.empty() || !IsUtf8(model) ? "null" : Quote(model);
}

}  // namespace

const char* Architecture() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#elif defined(__arm__)
  return "arm";
#else
#error "bundles are compiled for x86-64 and ARM only"
#endif
}

const char* System() {
#if defined(__ANDROID__)
  return "android";
#else
  return "linux";
#endif
}

std::string MachineJson() {
  return "{\"arch\": " + Quote(Architecture()) + ", \"os\": " + Quote(System()) +
         ", \"isa\": " + List(InstructionSets()) + ", \"words\": " + List(ProcessorWords()) +
         ", \"cores\": " + CoresJson() + ", \"memory_bytes\": " + MemoryJson() +
         ", \"model\": " + ModelJson() + ", \"emulated\": " + (IsEmulated() ? "true" : "false") +
         ", \"runtime\": {\"pocketformer\": " + Quote(POCKETFORMER_VERSION) +
         ", \"tvm\": " + Quote(POCKETFORMER_TVM_VERSION) + "}}";
}

}  // namespace pocketformer
