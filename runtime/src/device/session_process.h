// One client's session: a process of its own, so that a crash or an endless loop ends it alone.
#ifndef POCKETFORMER_DEVICE_SESSION_PROCESS_H_
#define POCKETFORMER_DEVICE_SESSION_PROCESS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <sys/types.h>

#include "device/net.h"

namespace pocketformer {

// What the new process needs to know.
struct SessionPlan {
  std::string welcome;                     // goes to the client first
  std::string work, files;                 // folders: its own, and the store's
  std::function<std::string()> info;
  std::function<void()> let_go;            // closes what belongs to the server alone
};

class SessionProcess {
 public:
  // Starts it; none is running if that failed. `limit_ns` 0 lets it last as long as the client.
  SessionProcess(Descriptor client, std::int64_t limit_ns, const SessionPlan& plan);
  ~SessionProcess();    // kills it
  SessionProcess(const SessionProcess&) = delete;
  SessionProcess& operator=(const SessionProcess&) = delete;

  bool started() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }

  // Becomes ready when the client has hung up; then, and when Deadline has come, call Continue.
  int handle() const { return hung_up_ ? -1 : client_.get(); }
  std::int64_t Deadline() const;
  void Continue(short ready);

  // Whether it has ended; `how` then says so: "normally", "hung up", "timed out", "signal 11",
  // "exit code 3".
  bool HasEnded(std::string* how);
  double Seconds() const;

 private:
  void Kill();
  void TellTimeIsUp();
  bool ClientIsGone() const;

  Descriptor client_;
  pid_t pid_ = -1;
  std::int64_t started_, limit_;           // `limit_` is a time, 0 for none
  std::int64_t grace_ = 0;                 // when to kill it after the client has gone
  bool hung_up_ = false, timed_out_ = false, killed_ = false;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_SESSION_PROCESS_H_
