#include "bundle.h"

#include <cstdlib>

#include "checksum.h"
#include "cpu.h"
#include "error.h"
#include "machine.h"
#include "text.h"

namespace pocketformer {
namespace {

constexpr char kLevelVariable[] = "POCKETFORMER_LEVEL";    // for tests, and to compare levels
constexpr char kBase[] = "base";    // what a bundle without levels has alone

void RefuseMachine(const Manifest& manifest) {
  const TargetRecord& target = manifest.target;
  const std::string compiled = "the bundle was compiled for " + target.Shown();
  if (target.arch != Architecture() || target.os != System()) {
    throw Error(compiled + ", this machine is " + Architecture() + " " + System());
  }
  const std::vector<std::string> missing = MissingInstructions(target.isa, target.features);
  if (!missing.empty()) {
    throw Error(compiled + ", this machine's processor lacks " + Joined(missing));
  }
  if (manifest.tvm_version != POCKETFORMER_TVM_VERSION) {
    throw Error("the bundle was compiled with TVM " + manifest.tvm_version +
                ", this runtime is TVM " + POCKETFORMER_TVM_VERSION);
  }
}

// compatibility.py's choose_level.
std::string ChooseLevel(const Manifest& manifest) {
  const char* variable = std::getenv(kLevelVariable);
  const std::string wanted = variable ? variable : "";
  if (manifest.levels.empty() && (wanted.empty() || wanted == kBase)) return "";
  if (wanted.empty()) {
    std::string best = manifest.levels[0].name;
    if (ProcessorWords().empty()) return best;    // nothing tells what it can run
    for (const Level& level : manifest.levels) {
      if (MissingInstructions(level.isa, level.features).empty()) best = level.name;
    }
    return best;
  }
  const std::string is = std::string(kLevelVariable) + " is " + Quoted(wanted);
  std::vector<std::string> names;
  if (manifest.levels.empty()) names.push_back(kBase);
  for (const Level& level : manifest.levels) {
    names.push_back(level.name);
    if (level.name != wanted) continue;
    const std::vector<std::string> missing = MissingInstructions(level.isa, level.features);
    if (missing.empty()) return level.name;
    throw Error(is + ", this machine's processor lacks " + Joined(missing));
  }
  throw Error(is + ", the bundle has " + Joined(names));
}

void CheckEntries(const Bundle& bundle) {
  const auto& weights = bundle.manifest.weights;
  const std::size_t count = bundle.weights.size();
  if (weights && weights->count != static_cast<std::int64_t>(count)) {
    throw Error("there are " + std::to_string(count) + " weights, not " +
                std::to_string(weights->count));
  }
  for (const Entry& entry : bundle.manifest.entries) {
    for (const std::string& name : entry.weights) {
      if (bundle.weights.contains(name)) continue;
      throw Error("the entry " + Quoted(entry.function) + " needs the weight " + Quoted(name) +
                  ", which the bundle lacks");
    }
  }
}

}  // namespace

Bundle Bundle::Load(const std::string& folder) {
  const std::string where = folder + "/manifest.json";
  Bundle bundle;
  bundle.manifest = Manifest::Parse(ReadManifest(folder, kLargestManifest), where);
  RefuseMachine(bundle.manifest);
  Files files;
  for (const auto& [name, record] : bundle.manifest.files) {
    files.emplace(name, MappedFile::Open(folder + "/" + name, record.bytes));
  }
  CheckChunks(files, bundle.manifest.files);
  bundle.library = folder + "/" + kLibraryFile;
  if (bundle.manifest.weights) {
    bundle.weights_file = files.at(bundle.manifest.weights->file);
    bundle.weights = ReadWeights(*bundle.weights_file, bundle.manifest.weights->file);
  }
  CheckEntries(bundle);
  bundle.level = ChooseLevel(bundle.manifest);
  return bundle;
}

}  // namespace pocketformer
