// Lines on stderr, for whoever started the server.
#ifndef POCKETFORMER_DEVICE_LOG_H_
#define POCKETFORMER_DEVICE_LOG_H_

#include <cstdio>
#include <string>

namespace pocketformer {

inline void Log(const std::string& line) {
  std::fprintf(stderr, "pocketformer_device: %s\n", line.c_str());
}

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_LOG_H_
