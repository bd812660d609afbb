#include <exception>

#include "device/log.h"
#include "device/options.h"
#include "device/server.h"

// The whole of the program pocketformer_device; its exit code.
extern "C" __attribute__((visibility("default"))) int pf_device_main(int argc, char** argv) {
  constexpr int kUsersMistake = 2;
  try {
    const auto options = pocketformer::ParseOptions(argc, argv);
    if (!options) return 0;
    pocketformer::Server(*options).Run();
    return 0;
  } catch (const std::exception& error) {
    pocketformer::Log(error.what());
    return kUsersMistake;
  }
}
