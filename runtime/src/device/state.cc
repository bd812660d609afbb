#include "device/state.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "cpu.h"
#include "files.h"

namespace pocketformer {
namespace {

// In the names that makers give to sensors: others measure the battery, the case, the charger.
constexpr std::string_view kProcessor[] = {"cpu", "soc", "pkg", "big", "mid", "little"};
constexpr int kMostZones = 256;
constexpr double kHottest = 150;    // degrees Celsius: what tells of more is no such sensor

bool IsProcessor(std::string type) {
  std::transform(type.begin(), type.end(), type.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return std::any_of(std::begin(kProcessor), std::end(kProcessor), [&](std::string_view word) {
    return type.find(word) != std::string::npos;
  });
}

// Zones are numbered from 0 on, without gaps.
double Celsius(const std::string& root) {
  double hottest = 0;
  for (int i = 0; i < kMostZones; ++i) {
    const std::string zone = root + "/class/thermal/thermal_zone" + std::to_string(i);
    const std::string type = ReadSystemFile(zone + "/type");
    if (type.empty()) break;
    if (!IsProcessor(type)) continue;
    const double value = std::strtod(ReadSystemFile(zone + "/temp").c_str(), nullptr) / 1000;
    if (value <= kHottest) hottest = std::max(hottest, value);
  }
  return hottest;
}

double Mhz(const std::string& root) {
  double fastest = 0;
  for (const int cpu : UsableCpus()) {
    const std::string file =
        root + "/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/scaling_cur_freq";
    fastest = std::max(fastest, std::strtod(ReadSystemFile(file).c_str(), nullptr) / 1000);
  }
  return fastest;
}

std::string Number(double value) {
  if (value <= 0) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

}  // namespace

std::string StateJson(const std::string& root) {
  const bool own = !IsEmulated();    // else the files tell of the machine that emulates this one
  return "{\"celsius\": " + Number(own ? Celsius(root) : 0) +
         ", \"mhz\": " + Number(own ? Mhz(root) : 0) + "}";
}

}  // namespace pocketformer
