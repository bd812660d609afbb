#ifndef _GNU_SOURCE
#define _GNU_SOURCE    // POLLRDHUP
#endif
#include "device/server.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <limits>
#include <unistd.h>
#include <utility>

#include "device/folder.h"
#include "device/log.h"
#include "device/signals.h"
#include "json.h"
#include "machine.h"

namespace pocketformer {
namespace {

constexpr std::int64_t kHandshake = 5 * kSecond;    // for a client to say what it wants
constexpr std::size_t kMostClients = 64;            // that have not said so yet
enum Place { kSignals, kStdin, kListening, kTracker, kSession, kClients };    // among what is watched

}  // namespace

Server::Server(const Options& options)
    : options_(options),
      port_(options.port),
      listening_(Listen(options.host, &port_)),
      home_(options.folder),
      signals_(CatchSignals()),
      machine_(MachineJson()) {
  if (options.tracker) tracker_ = std::make_unique<Tracker>(options, port_);
}

void Server::Run() {
  const std::string place = ShowPlace(options_.host, port_);
  std::printf("ready %s key=%s\n", place.c_str(), options_.key.c_str());
  std::fflush(stdout);
  while (!ending_) Step();
  if (session_) {
    const int pid = session_->pid();
    session_.reset();
    home_.Clean(sessions_, pid);
  }
}

void Server::Step() {
  std::vector<pollfd> watched = Watched();
  if (poll(watched.data(), watched.size(), Milliseconds()) < 0) {
    for (pollfd& each : watched) each.revents = 0;    // a signal came: its pipe tells next time
  }
  if (watched[kSignals].revents != 0) ending_ = EndingSignalCame(signals_);
  if (watched[kStdin].revents != 0) ending_ = true;
  if (tracker_) tracker_->Continue(watched[kTracker].revents);
  if (session_) {
    session_->Continue(watched[kSession].revents);
    EndSession();
  }
  Hear(watched);
  if (watched[kListening].revents != 0) AcceptClients();
}

std::vector<pollfd> Server::Watched() const {
  std::vector<pollfd> watched(kClients);
  watched[kSignals] = {signals_.get(), POLLIN, 0};
  watched[kStdin] = {options_.with_stdin ? STDIN_FILENO : -1, 0, 0};    // its end is always told
  watched[kListening] = {listening_.get(), POLLIN, 0};
  watched[kTracker] = {tracker_ ? tracker_->handle() : -1, tracker_ ? tracker_->events() : short{},
                       0};
  watched[kSession] = {session_ ? session_->handle() : -1, POLLRDHUP, 0};
  for (const Handshake& client : clients_) watched.push_back({client.handle(), POLLIN, 0});
  return watched;
}

int Server::Milliseconds() const {
  std::int64_t first = std::numeric_limits<std::int64_t>::max();
  if (tracker_) first = std::min(first, tracker_->Deadline());
  if (session_) first = std::min(first, session_->Deadline());
  for (const Handshake& client : clients_) first = std::min(first, client.deadline());
  if (first == std::numeric_limits<std::int64_t>::max()) return -1;
  const std::int64_t wait = (first - Now()) / 1000000 + 1;
  return static_cast<int>(std::clamp<std::int64_t>(wait, 0, 60000));
}

void Server::AcceptClients() {
  while (Descriptor client = Accept(listening_)) {
    // One that says nothing must not keep out one that knows what it wants.
    if (clients_.size() == kMostClients) clients_.pop_front();
    clients_.emplace_back(std::move(client), Now() + kHandshake);
  }
  if (errno == EMFILE || errno == ENFILE) clients_.clear();
}

void Server::Hear(const std::vector<pollfd>& watched) {
  auto client = clients_.begin();
  for (std::size_t i = kClients; i < watched.size(); ++i) {
    auto state = Handshake::State::kMore;
    if (watched[i].revents != 0) state = client->Read();
    if (state == Handshake::State::kWhole) Answer(*client);
    const bool done = state != Handshake::State::kMore || Now() >= client->deadline();
    client = done ? clients_.erase(client) : std::next(client);
  }
}

// Nothing at all happens for a client before its token was compared.
void Server::Answer(Handshake& client) {
  const auto greeting = ReadGreeting(client.text());
  const bool trusted = greeting && IsSameToken(greeting->token, options_.token);
  const bool expected =
      greeting && (tracker_ ? tracker_->Expects(greeting->key)
                            : greeting->key.empty() || greeting->key == options_.key);
  if (!trusted || (!expected && !greeting->info)) {
    Log(trusted ? "a client asked for another key" : "a client came without the token");
    if (tracker_ && expected) tracker_->Renew();
    SendAtOnce(client.socket(), Int32(kMismatch));
  } else if (greeting->info) {
    const std::string text = Info(session_ != nullptr);
    SendAtOnce(client.socket(), Int32(kWelcome) + Int32(static_cast<std::int32_t>(text.size())) +
                                    text);
  } else if (session_) {
    SendAtOnce(client.socket(), Int32(kBusy));
  } else {
    Begin(client, *greeting);
  }
}

void Server::Begin(Handshake& client, const Greeting& greeting) {
  const std::string name = "server:" + options_.key;
  SessionPlan plan;
  plan.welcome = Int32(kWelcome) + Int32(static_cast<std::int32_t>(name.size())) + name;
  plan.work = home_.WorkOf(++sessions_);
  plan.files = home_.files();
  plan.info = [this] { return Info(true); };
  plan.let_go = [this] {
    listening_ = Descriptor();
    signals_ = Descriptor();
    tracker_.reset();
    clients_.clear();
    home_.LetGo();
  };
  session_ = std::make_unique<SessionProcess>(std::move(client.socket()), greeting.limit_ns, plan);
  if (!session_->started()) {
    Log("no process can be started for a session");
    session_.reset();
  } else if (tracker_) {
    tracker_->SetFree(false);
  }
}

void Server::EndSession() {
  const int pid = session_->pid();
  std::string how;
  if (!session_->HasEnded(&how)) return;
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%.3f", session_->Seconds());
  last_session_ = "{\"ended\": " + Quote(how) + ", \"seconds\": " + seconds + "}";
  Log("a session of " + std::string(seconds) + " s ended: " + how);
  session_.reset();
  home_.Clean(sessions_, pid);
  if (tracker_) tracker_->SetFree(true);
}

std::string Server::Info(bool busy) const {
  const std::int64_t free = FreeBytes(home_.path());
  return machine_.substr(0, machine_.rfind('}')) + ", \"key\": " + Quote(options_.key) +
         ", \"busy\": " + (busy ? "true" : "false") + ", \"last_session\": " + last_session_ +
         ", \"free_bytes\": " + (free < 0 ? "null" : std::to_string(free)) + "}";
}

}  // namespace pocketformer
