#ifndef _GNU_SOURCE
#define _GNU_SOURCE    // POLLRDHUP
#endif
#include "device/session_process.h"

#include <csignal>
#include <exception>
#include <fcntl.h>
#include <limits>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include <tvm/ffi/function.h>

#include "device/functions.h"
#include "device/log.h"

namespace pocketformer {
namespace {

using tvm::ffi::Function;

constexpr std::int64_t kGrace = kSecond;    // what a session may still finish without its client
constexpr int kFailed = 1;

// The server's answers to signals are not the session's. SIGPIPE stays ignored.
void ResetSignals() {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGSEGV, SIGBUS, SIGFPE, SIGILL,
                           SIGABRT}) {
    std::signal(signal, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Standard output is the server's, whose reader expects one line.
void ReplaceStandardFiles() {
  const Descriptor nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (nothing) dup2(nothing.get(), STDIN_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
}

[[noreturn]] void Serve(const Descriptor& client, const SessionPlan& plan, pid_t server) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != server) _exit(kFailed);    // it died before it could be watched
  ResetSignals();
  ReplaceStandardFiles();
  plan.let_go();
  const rlimit no_dumps{0, 0};
  setrlimit(RLIMIT_CORE, &no_dumps);
  try {
    const Function loop = Function::GetGlobalRequired("rpc.ServerLoop");
    DefineFunctions(plan.work, plan.files, plan.info);
    SetBlocking(client, true);
    if (!SendAtOnce(client, plan.welcome)) _exit(kFailed);
    loop(static_cast<std::int64_t>(client.get()));
  } catch (const std::exception& error) {
    Log(std::string("the session ends: ") + error.what());
    _exit(kFailed);
  }
  _exit(0);
}

}  // namespace

SessionProcess::SessionProcess(Descriptor client, std::int64_t limit_ns, const SessionPlan& plan)
    : client_(std::move(client)), started_(Now()), limit_(limit_ns > 0 ? started_ + limit_ns : 0) {
  KeepLively(client_);
  const pid_t server = getpid();
  pid_ = fork();
  if (pid_ == 0) Serve(client_, plan, server);
  if (pid_ > 0) setpgid(pid_, pid_);    // whoever of the two comes first
}

SessionProcess::~SessionProcess() {
  if (pid_ <= 0) return;
  Kill();
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::int64_t SessionProcess::Deadline() const {
  std::int64_t first = std::numeric_limits<std::int64_t>::max();
  if (killed_) return first;
  if (limit_ > 0) first = limit_;
  if (grace_ > 0 && grace_ < first) first = grace_;
  return first;
}

void SessionProcess::Continue(short ready) {
  if (ready != 0 && !hung_up_) {
    hung_up_ = true;
    grace_ = Now() + kGrace;
  }
  if (killed_ || Now() < Deadline()) return;
  timed_out_ = !hung_up_;
  Kill();
}

void SessionProcess::Kill() {
  killed_ = true;
  if (kill(-pid_, SIGKILL) != 0) kill(pid_, SIGKILL);
}

bool SessionProcess::HasEnded(std::string* how) {
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
  kill(-pid_, SIGKILL);    // what it may have started
  pid_ = -1;
  if (timed_out_) {
    *how = "timed out";
    TellTimeIsUp();
  } else if (WIFSIGNALED(status)) {
    *how = killed_ ? "hung up" : "signal " + std::to_string(WTERMSIG(status));
  } else if (WEXITSTATUS(status) == 0) {
    *how = "normally";
  } else {
    *how = ClientIsGone() ? "hung up" : "exit code " + std::to_string(WEXITSTATUS(status));
  }
  return true;
}

double SessionProcess::Seconds() const { return static_cast<double>(Now() - started_) / kSecond; }

bool SessionProcess::ClientIsGone() const {
  pollfd state{client_.get(), POLLRDHUP, 0};
  return hung_up_ || poll(&state, 1, 0) > 0;
}

// In TVM's words, for its own clients, if that does not take waiting for one.
void SessionProcess::TellTimeIsUp() {
  pollfd state{client_.get(), POLLOUT, 0};
  if (poll(&state, 1, 0) <= 0 || (state.revents & (POLLERR | POLLHUP)) != 0) return;
  try {
    Function::GetGlobalRequired("rpc.ReturnException")(
        static_cast<std::int64_t>(client_.get()),
        "RPCSessionTimeoutError: the session's time is up; ask for a longer session_timeout");
  } catch (const std::exception&) {
    // It finds out when the connection ends.
  }
}

}  // namespace pocketformer
