// manifest.json: what a bundle says about itself, checked like any input.
#ifndef POCKETFORMER_MANIFEST_H_
#define POCKETFORMER_MANIFEST_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "axes.h"
#include "checksum.h"
#include "dtypes.h"

namespace pocketformer {

constexpr char kLibraryFile[] = "model.so";
constexpr std::size_t kLargestManifest = 64 << 20;    // bytes

struct TargetRecord {
  std::string arch, os;
  std::vector<std::string> isa, features;
  std::int64_t threads = 1;

  // "aarch64 linux (needs i8mm)"
  std::string Shown() const;
};

struct TensorSpec {
  std::string name;
  std::vector<Axis> shape;
  const Dtype* dtype;

  // "ids: int64[1, seq]"
  std::string Shown() const;
};

// The sizes that a named dimension may take; no upper limit where `high` is missing.
struct Dim {
  std::int64_t low = 1;
  std::optional<std::int64_t> high;
};

// Code for processors that have `isa` and `features`.
struct Level {
  std::string name;
  std::vector<std::string> isa, features;
};

// A function of the library, the sizes that it is made for, the weights after its inputs, and the
// level that it belongs to, "" in a bundle without levels.
struct Entry {
  std::string function;
  std::vector<std::pair<std::string, std::int64_t>> dims;
  std::vector<std::string> weights;
  std::string level;
};

struct WeightsRecord {
  std::string file;
  std::int64_t count;
};

struct Manifest {
  std::string tvm_version;
  TargetRecord target;
  std::vector<TensorSpec> inputs, outputs;
  std::map<std::string, Dim> dims;
  std::vector<Entry> entries;
  std::vector<Level> levels;    // the base first; none where all machines run the same code
  std::optional<WeightsRecord> weights;
  FileRecords files;

  // Throws Error for a text that is no manifest, that was changed, or that another version of the
  // format laid out. `where` names the file in the message.
  static Manifest Parse(std::string_view text, const std::string& where);
};

}  // namespace pocketformer

#endif  // POCKETFORMER_MANIFEST_H_
