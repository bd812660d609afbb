#include "device/signals.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include "error.h"

namespace pocketformer {
namespace {

volatile sig_atomic_t writing_end = -1;

void Catch(int signal) {
  const int before = errno;
  const char byte = signal == SIGCHLD ? 'c' : 'e';
  if (write(writing_end, &byte, 1) < 0) {
    // The pipe is full of others that will wake the server.
  }
  errno = before;
}

void Handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

bool IsIgnored(int signal) {
  struct sigaction action {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

Descriptor CatchSignals() {
  int ends[2];
  if (pipe(ends) != 0) throw Error(std::string("cannot make a pipe: ") + std::strerror(errno));
  for (const int end : ends) {
    fcntl(end, F_SETFD, FD_CLOEXEC);
    fcntl(end, F_SETFL, O_NONBLOCK);
  }
  writing_end = ends[1];
  Handle(SIGCHLD, Catch);
  Handle(SIGTERM, Catch);
  Handle(SIGINT, Catch);
  if (!IsIgnored(SIGHUP)) Handle(SIGHUP, Catch);    // nohup lets it outlive its terminal
  Handle(SIGPIPE, SIG_IGN);
  Handle(SIGXFSZ, SIG_IGN);                         // a write fails with an error instead
  return Descriptor(ends[0]);
}

bool EndingSignalCame(const Descriptor& signals) {
  bool ending = false;
  char bytes[64];
  ssize_t count;
  while ((count = read(signals.get(), bytes, sizeof bytes)) > 0) {
    ending = ending || std::memchr(bytes, 'e', count) != nullptr;
  }
  return ending;
}

}  // namespace pocketformer
