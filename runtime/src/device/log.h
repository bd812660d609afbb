// Lines on stderr, for whoever started the server.
#ifndef POCKETFORMER_DEVICE_LOG_H_
#define POCKETFORMER_DEVICE_LOG_H_

#include <poll.h>
#include <string>
#include <unistd.h>

namespace pocketformer {

// Left out where it would have to wait for a reader: strangers can cause any number of lines.
inline void Log(const std::string& line) {
  const std::string text = "pocketformer_device: " + line + "\n";
  pollfd error{STDERR_FILENO, POLLOUT, 0};
  if (poll(&error, 1, 0) == 0) return;
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) {
    // There is nobody to tell.
  }
}

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_LOG_H_
