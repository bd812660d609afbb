// How warm the device is and how fast its cores run: what its times depend on, besides the code.
#ifndef POCKETFORMER_DEVICE_STATE_H_
#define POCKETFORMER_DEVICE_STATE_H_

#include <string>

namespace pocketformer {

// {"celsius", "mhz"}: the hottest of the processor's sensors, and the clock of the fastest CPU that
// this thread may run on, as the files below `root` (of Linux's /sys) tell; null where none does.
std::string StateJson(const std::string& root = "/sys");

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_STATE_H_
