// Prints what each version of SHA-256 that this processor has gives for known texts, and for texts
// of many lengths in odd pieces, as "VERSION LENGTH DIGEST".
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

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

int main() {
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
        std::printf("%s %zu %s\n", name, length, Digest(blocks, text, piece).c_str());
      }
    }
  }
}
