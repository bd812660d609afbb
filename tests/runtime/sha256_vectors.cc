// Tells `line` what each version of SHA-256 that this processor has gives for texts of many lengths,
// taken in odd pieces: "VERSION LENGTH DIGEST".
#include <algorithm>
#include <string>

#include "sha256.h"

using pocketformer::Sha256;

namespace {

std::string Digest(pocketformer::Sha256Blocks blocks, const std::string& text, std::size_t piece) {
  Sha256 sha(blocks);
  for (std::size_t i = 0; i < text.size(); i += piece) {
    sha.Update(text.data() + i, std::min(piece, text.size() - i));
  }
  return sha.Hex();
}

}  // namespace

extern "C" void sha256_vectors(void (*line)(const char*)) {
  const struct {
    const char* name;
    pocketformer::Sha256Blocks blocks;
  } versions[] = {{"plain", &pocketformer::Sha256BlocksPlain},
                  {"x86", pocketformer::Sha256BlocksX86()},
                  {"arm", pocketformer::Sha256BlocksArm()}};
  for (const auto& [name, blocks] : versions) {
    if (!blocks) continue;
    for (std::size_t length = 0; length < 300; ++length) {
      std::string text;
      for (std::size_t i = 0; i < length; ++i) text += static_cast<char>('a' + i % 23);
      for (std::size_t piece : {1, 7, 64, 1000}) {
        const std::string size = std::to_string(length);
        line((std::string(name) + " " + size + " " + Digest(blocks, text, piece)).c_str());
      }
    }
  }
}
