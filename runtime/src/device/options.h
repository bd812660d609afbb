// The command line of pocketformer_device.
#ifndef POCKETFORMER_DEVICE_OPTIONS_H_
#define POCKETFORMER_DEVICE_OPTIONS_H_

#include <optional>
#include <string>

namespace pocketformer {

struct Place {
  std::string host;
  int port;
};

struct Options {
  std::string host = "127.0.0.1";
  int port = 9190;                 // 0 takes any that is free
  std::string key = "pocketformer";
  std::string folder;              // "" makes a temporary one
  std::optional<Place> tracker;
  std::string advertise;           // the host that the tracker tells clients, "" the one it sees
  std::string token;
  bool with_stdin = false;         // end when standard input is closed at its other end
};

// Nothing where only a text was asked for, which is then printed. Throws Error.
std::optional<Options> ParseOptions(int argc, char** argv);

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_OPTIONS_H_
