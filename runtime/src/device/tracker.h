// The device's side of TVM's tracker protocol, without ever waiting for the tracker.
#ifndef POCKETFORMER_DEVICE_TRACKER_H_
#define POCKETFORMER_DEVICE_TRACKER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "device/net.h"
#include "device/options.h"

namespace pocketformer {

// Registers this device while it is free, under a word that a client must then come with. Begins
// again when the tracker is gone, and with a new word when nobody came with the last one.
class Tracker {
 public:
  // `port` is where this device listens. Throws Error if the tracker's host is unknown.
  Tracker(const Options& options, int port);

  bool Expects(const std::string& word) const { return !word_.empty() && word == word_; }
  // Whether a client can be served now.
  void SetFree(bool free);
  // Somebody came with the word and was sent away: TVM's tracker gives each out only once.
  void Renew() { word_.clear(); }

  // What to wait for; Continue is to be called then, and when Deadline has come.
  int handle() const { return socket_.get(); }
  short events() const;
  std::int64_t Deadline() const;
  void Continue(short ready);

 private:
  enum class State { kDown, kConnecting, kGreeting, kUp };
  enum class Asked { kNothing, kInfo, kPut, kWords };

  void Connect();
  void Drop(const std::string& reason);
  void Greet();
  void Listen();
  void Take(std::string_view reply);
  void TakeWords(std::string_view reply);
  void Ask();
  void Send(Asked what, const std::string& json);

  std::vector<SocketAddress> addresses_;
  std::size_t tries_ = 0;
  std::string place_, key_, advertise_, word_, received_;
  int port_;
  Descriptor socket_;
  State state_ = State::kDown;
  Asked asked_ = Asked::kNothing;
  bool free_ = true, known_ = false, complained_ = false;
  std::int64_t next_ = 0;       // when to do something, or when to stop waiting for an answer
  std::int64_t taken_ = 0;      // since when the tracker has given the word out, 0 if it has not
};

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_TRACKER_H_
