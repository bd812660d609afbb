// What the files below `root` tell of the device's state, as JSON, to `told`.
#include "device/state.h"

extern "C" void state_of(const char* root, void (*told)(const char*)) {
  told(pocketformer::StateJson(root).c_str());
}
