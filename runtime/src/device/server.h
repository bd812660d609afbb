// The server: lets clients in one at a time, answers questions at any time, never runs a kernel.
#ifndef POCKETFORMER_DEVICE_SERVER_H_
#define POCKETFORMER_DEVICE_SERVER_H_

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include <poll.h>

#include "device/handshake.h"
#include "device/home.h"
#include "device/net.h"
#include "device/options.h"
#include "device/session_process.h"
#include "device/tracker.h"

namespace pocketformer {

class Server {
 public:
  // Listens from here on. Throws Error.
  explicit Server(const Options& options);

  // Serves until a signal ends it, or the end of standard input where that is wanted.
  void Run();

 private:
  void Step();
  std::vector<pollfd> Watched() const;
  int Milliseconds() const;    // until the first deadline

  void AcceptClients();
  void Hear(const std::vector<pollfd>& watched);
  void Answer(Handshake& client);
  void Begin(Handshake& client, const Greeting& greeting);
  void EndSession();
  std::string Info(bool busy) const;

  Options options_;
  int port_;
  Descriptor listening_;
  Home home_;
  Descriptor signals_;
  std::unique_ptr<Tracker> tracker_;
  std::list<Handshake> clients_;
  std::unique_ptr<SessionProcess> session_;
  std::string machine_, last_session_ = "null";
  std::int64_t sessions_ = 0;
  bool ending_ = false;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_SERVER_H_
