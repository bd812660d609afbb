#include "device/options.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string_view>

#include "error.h"
#include "files.h"
#include "text.h"

namespace pocketformer {
namespace {

constexpr char kHelp[] =
    R"(pocketformer_device: runs bundles for clients that know its token, one client at a time

  --host HOST        where to listen: 127.0.0.1 (only programs on this device) unless given
  --port PORT        9190 unless given; 0 takes any that is free
  --key KEY          the name of this device, "pocketformer" unless given
  --folder FOLDER    keeps uploaded files for later sessions; a temporary one unless given
  --tracker HOST:PORT    registers with a TVM RPC tracker, again and again if that is restarted
  --advertise HOST   the host by which clients of the tracker reach this device
  --token-file FILE  holds the token; without it, the variable POCKETFORMER_TOKEN does
  --with-stdin       ends when its standard input does: with the program that holds the other end
  --help, --version

Prints "ready HOST:PORT key=KEY" once it listens; ends on SIGTERM and SIGINT.
Whoever knows the token can run any code as this user. The token travels as it is and nothing is
encrypted: on a network that others share, leave --host alone and use adb forward or an ssh tunnel.
)";

constexpr char kWithStdin[] = "--with-stdin";

int ParsePort(const std::string& text, const std::string& option) {
  int port = -1;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (fault != std::errc() || end != text.data() + text.size() || port < 0 || port > 65535) {
    throw Error(option + " needs a port from 0 to 65535, not " + Quoted(text));
  }
  return port;
}

Place ParsePlace(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    throw Error("--tracker needs HOST:PORT, not " + Quoted(text));
  }
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return {host, ParsePort(text.substr(colon + 1), "--tracker")};
}

bool IsVisible(char letter) { return letter > ' ' && letter < 0x7f; }

// The key becomes a word of messages and a part of addresses.
void CheckKey(const std::string& key) {
  const auto fits = [](char letter) {
    return IsVisible(letter) && letter != ':' && letter != '/';
  };
  if (!key.empty() && key.size() <= 100 && std::all_of(key.begin(), key.end(), fits)) return;
  throw Error("--key needs 1 to 100 letters, digits or signs without ':', '/' and blanks, not " +
              Quoted(key));
}

std::string FindToken(const std::string& file) {
  const char* variable = std::getenv("POCKETFORMER_TOKEN");
  std::string token = variable ? variable : "";
  if (!file.empty()) token = ReadSystemFile(file);
  if (token.empty()) {
    throw Error(file.empty() ? "it lets nobody in without a token; give one by --token-file or "
                               "in POCKETFORMER_TOKEN"
                             : "the token file " + file + " is empty or cannot be read");
  }
  while (!token.empty() && std::string_view(" \t\r\n").find(token.back()) != std::string::npos) {
    token.pop_back();
  }
  if (token.empty() || token.size() > 256 || !std::all_of(token.begin(), token.end(), IsVisible)) {
    throw Error("what " + (file.empty() ? "POCKETFORMER_TOKEN" : file) +
                " holds is no token: one is 1 to 256 letters, digits or signs, no blanks");
  }
  return token;
}

// The options' values by name; "--port 9190" and "--port=9190" are the same.
std::map<std::string, std::string> ReadWords(int argc, char** argv) {
  static constexpr std::string_view kNames[] = {
      "--host", "--port", "--key", "--folder", "--tracker", "--advertise", "--token-file"};
  std::map<std::string, std::string> values;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    if (word == kWithStdin) {
      values[word] = "yes";
      continue;
    }
    if (std::find(std::begin(kNames), std::end(kNames), name) == std::end(kNames)) {
      throw Error("there is no option " + Quoted(word) + "; --help lists those that there are");
    }
    if (equals == std::string::npos && i + 1 == argc) throw Error(name + " needs a value");
    values[name] = equals == std::string::npos ? argv[++i] : word.substr(equals + 1);
    if (values[name].empty()) throw Error(name + " needs a value");
  }
  return values;
}

}  // namespace

std::optional<Options> ParseOptions(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word != "--help" && word != "-h" && word != "--version") continue;
    std::fputs(word == "--version" ? POCKETFORMER_VERSION " (TVM " POCKETFORMER_TVM_VERSION ")\n"
                                   : kHelp, stdout);
    return std::nullopt;
  }
  auto values = ReadWords(argc, argv);
  Options options;
  if (values.count("--host")) options.host = values["--host"];
  if (values.count("--port")) options.port = ParsePort(values["--port"], "--port");
  if (values.count("--key")) options.key = values["--key"];
  if (values.count("--tracker")) options.tracker = ParsePlace(values["--tracker"]);
  options.folder = values["--folder"];
  options.advertise = values["--advertise"];
  options.with_stdin = values.count(kWithStdin) > 0;
  CheckKey(options.key);
  options.token = FindToken(values["--token-file"]);
  return options;
}

}  // namespace pocketformer
