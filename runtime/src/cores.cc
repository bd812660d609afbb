// The cores of the machine by name: from the registers that the kernel shows, else from cpuinfo.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <unistd.h>

#include "cpu.h"
#include "files.h"

namespace pocketformer {
namespace {

#if defined(__arm__) || defined(__aarch64__)

// ARM's part numbers of the cores that phones and small boards have.
const std::map<unsigned, const char*> kArmParts = {
    {0xc07, "Cortex-A7"},    {0xc09, "Cortex-A9"},   {0xc0f, "Cortex-A15"},  {0xc0e, "Cortex-A17"},
    {0xd03, "Cortex-A53"},   {0xd04, "Cortex-A35"},  {0xd05, "Cortex-A55"},  {0xd07, "Cortex-A57"},
    {0xd08, "Cortex-A72"},   {0xd09, "Cortex-A73"},  {0xd0a, "Cortex-A75"},  {0xd0b, "Cortex-A76"},
    {0xd0c, "Neoverse-N1"},  {0xd0d, "Cortex-A77"},  {0xd40, "Neoverse-V1"}, {0xd41, "Cortex-A78"},
    {0xd44, "Cortex-X1"},    {0xd46, "Cortex-A510"}, {0xd47, "Cortex-A710"}, {0xd48, "Cortex-X2"},
    {0xd49, "Neoverse-N2"},  {0xd4b, "Cortex-A78C"}, {0xd4d, "Cortex-A715"}, {0xd4e, "Cortex-X3"},
    {0xd4f, "Neoverse-V2"},  {0xd80, "Cortex-A520"}, {0xd81, "Cortex-A720"}, {0xd82, "Cortex-X4"},
    {0xd85, "Cortex-X925"},  {0xd87, "Cortex-A725"}};
constexpr unsigned kArmLimited = 0x41;

// The main identification register of a CPU, 0 where nothing tells.
unsigned long IdentificationOf(int cpu) {
  const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu);
  const std::string text = ReadSystemFile(folder + "/regs/identification/midr_el1");
  if (!text.empty() && !IsEmulated()) return std::strtoul(text.c_str(), nullptr, 16);
#if defined(__aarch64__)
  if (ProcessorWords().contains("cpuid")) {    // the kernel, or an emulator, reads it for us
    unsigned long value;
    __asm__("mrs %0, midr_el1" : "=r"(value));
    return value;
  }
#endif
  const std::string info = ReadSystemFile("/proc/cpuinfo");
  const std::size_t found = info.find("CPU part");
  if (found == std::string::npos) return 0;
  const std::size_t colon = info.find(':', found);
  if (colon == std::string::npos) return 0;
  return kArmLimited << 24 | std::strtoul(info.c_str() + colon + 1, nullptr, 16) << 4;
}

std::string NameOf(int cpu) {
  const unsigned long value = IdentificationOf(cpu);
  if (value == 0) return "unknown";
  const unsigned maker = value >> 24 & 0xff, part = value >> 4 & 0xfff;
  const auto known = kArmParts.find(part);
  if (maker == kArmLimited && known != kArmParts.end()) return known->second;
  char text[40];
  std::snprintf(text, sizeof text, "maker 0x%02x part 0x%03x", maker, part);
  return text;
}

#else

std::string ModelName() {
  const std::string info = ReadSystemFile("/proc/cpuinfo");
  const std::size_t found = info.find("model name");
  if (found == std::string::npos) return "unknown";
  const std::size_t begin = info.find_first_not_of(": \t", found + sizeof "model name" - 1);
  return info.substr(begin, info.find('\n', begin) - begin);
}

std::string NameOf(int) {
  static const std::string name = ModelName();    // the file is long where there are many cores
  return name;
}

#endif

int MaxMhz(int cpu) {
  if (IsEmulated()) return 0;
  const std::string text = ReadSystemFile("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                                          "/cpufreq/cpuinfo_max_freq");
  return static_cast<int>(std::strtol(text.c_str(), nullptr, 10) / 1000);
}

}  // namespace

bool IsEmulated() {
  // qemu answers for most of /proc/self, but leaves this file to the machine below.
  static const bool emulated = ReadSystemFile("/proc/self/comm").rfind("qemu-", 0) == 0;
  return emulated;
}

std::vector<Cores> AllCores() {
  std::vector<Cores> kinds;
  const long count = sysconf(_SC_NPROCESSORS_CONF);
  for (int cpu = 0; cpu < count; ++cpu) {
    const std::string name = NameOf(cpu);
    const int mhz = MaxMhz(cpu);
    bool known = false;
    for (Cores& kind : kinds) {
      if (kind.name != name || kind.max_mhz != mhz) continue;
      ++kind.count;
      known = true;
    }
    if (!known) kinds.push_back({name, 1, mhz});
  }
  return kinds;
}

}  // namespace pocketformer
