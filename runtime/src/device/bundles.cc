#include "device/bundles.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>
#include <vector>

#include "error.h"
#include "json.h"
#include "text.h"

namespace pocketformer {
namespace {

constexpr char kManifest[] = "manifest.json";
constexpr std::int64_t kMostRuns = 1000000;
constexpr std::int64_t kMostThreads = 1 << 20;    // far above what Session::Open reduces it to

struct Part {
  std::string name, sha256;
};

// The files that a manifest names. Session::Open looks at all else.
std::vector<Part> PartsOf(std::string_view manifest) {
  const Json whole = ParseObject(manifest, kManifest);
  const Json* files = whole.Find("files");
  if (files == nullptr || files->kind != Json::Kind::kObject || files->items.size() > 8) {
    throw Error("manifest.json names no files");
  }
  std::vector<Part> parts;
  for (std::size_t i = 0; i < files->items.size(); ++i) {
    const Json* sha256 = files->items[i].Find("sha256");
    if (sha256 == nullptr || sha256->kind != Json::Kind::kText || files->names[i] == kManifest) {
      throw Error("manifest.json has no checksum of " + Quoted(files->names[i]));
    }
    parts.push_back({PlainName(files->names[i]), CheckedSha256(sha256->text)});
  }
  return parts;
}

std::vector<std::int64_t> ParseShape(const std::string& text) {
  std::vector<std::int64_t> shape;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    std::int64_t axis = 0;
    const auto [next, fault] = std::from_chars(at, end, axis);
    const bool more = next != end && *next == 'x' && next + 1 != end;
    if (fault != std::errc() || axis < 0 || (next != end && !more)) {
      throw Error(Quoted(text) + " is no shape; one is written as 1x128");
    }
    shape.push_back(axis);
    at = more ? next + 1 : next;
  }
  return shape;
}

std::string TensorsJson(const std::vector<TensorInfo>& tensors) {
  std::vector<std::string> texts;
  for (const TensorInfo& tensor : tensors) {
    std::vector<std::string> axes;
    for (const std::string& axis : tensor.shape) axes.push_back(Quote(axis));
    texts.push_back("{\"name\": " + Quote(tensor.name) + ", \"dtype\": " + Quote(tensor.dtype) +
                    ", \"shape\": [" + Joined(axes) + "]}");
  }
  return "[" + Joined(texts) + "]";
}

std::size_t CheckedIndex(std::int64_t index, const std::vector<TensorInfo>& all, const char* kind) {
  if (index >= 0 && static_cast<std::uint64_t>(index) < all.size()) {
    return static_cast<std::size_t>(index);
  }
  throw Error("there is no " + std::string(kind) + " " + std::to_string(index) +
              "; the bundle has " + std::to_string(all.size()));
}

void CheckRuns(std::int64_t runs) {
  if (runs < 0 || runs > kMostRuns) {
    throw Error(std::to_string(runs) + " runs at once are not possible; 0 to 1000000 are");
  }
}

}  // namespace

std::int64_t Bundles::Open(std::string_view manifest, std::int64_t threads) {
  const std::vector<Part> parts = PartsOf(manifest);
  const std::int64_t handle = ++count_;
  const std::string folder = work_.Path() + "/" + std::to_string(handle);
  try {
    MakeFolder(folder);
    NewFile file(folder, ".manifest.part", kManifest);
    file.Write(manifest);
    file.Publish(kManifest);
    for (const Part& part : parts) store_.Place(part.sha256, folder, part.name);
    const auto wanted = std::clamp<std::int64_t>(threads, -1, kMostThreads);
    opened_[handle] = {Session::Open(folder, static_cast<int>(wanted)), folder};
  } catch (...) {
    RemoveTree(folder);
    for (const Part& part : parts) store_.DropIfDamaged(part.sha256);
    throw;
  }
  return handle;
}

void Bundles::Close(std::int64_t handle) {
  At(handle);
  const std::string folder = opened_[handle].folder;
  opened_.erase(handle);
  RemoveTree(folder);
}

Session& Bundles::At(std::int64_t handle) {
  const auto found = opened_.find(handle);
  if (found != opened_.end()) return *found->second.session;
  throw Error("no bundle is open as number " + std::to_string(handle));
}

std::string Bundles::Describe(std::int64_t handle) {
  const Session& session = At(handle);
  return "{\"inputs\": " + TensorsJson(session.inputs()) +
         ", \"outputs\": " + TensorsJson(session.outputs()) +
         ", \"threads\": " + std::to_string(session.threads()) +
         ", \"level\": " + Quote(session.level()) + "}";
}

void Bundles::Set(std::int64_t handle, std::int64_t index, std::string_view data,
                  const std::string& shape) {
  Session& session = At(handle);
  session.SetInput(CheckedIndex(index, session.inputs(), "input"), data.data(), data.size(),
                   ParseShape(shape));
}

std::string Bundles::Run(std::int64_t handle, std::int64_t warmup, std::int64_t runs) {
  Session& session = At(handle);
  CheckRuns(warmup);
  CheckRuns(runs);
  for (std::int64_t i = 0; i < warmup; ++i) session.Run();
  std::string times(runs * sizeof(std::int64_t), '\0');
  for (std::int64_t i = 0; i < runs; ++i) {
    const std::int64_t start = Now();
    session.Run();
    const std::int64_t took = Now() - start;
    std::memcpy(&times[i * sizeof took], &took, sizeof took);
  }
  return times;
}

TensorView Bundles::Output(std::int64_t handle, std::int64_t index) {
  const Session& session = At(handle);
  return session.Output(CheckedIndex(index, session.outputs(), "output"));
}

std::string Bundles::Profile(std::int64_t handle, std::int64_t runs) {
  Session& session = At(handle);
  CheckRuns(runs);
  std::vector<std::string> all;
  for (std::int64_t i = 0; i < runs; ++i) {
    std::vector<std::string> calls;
    for (const KernelCall& call : session.Profile()) {
      calls.push_back("[" + Quote(call.name) + ", " + std::to_string(call.start_ns) + ", " +
                      std::to_string(call.end_ns) + "]");
    }
    all.push_back("[" + Joined(calls) + "]");
  }
  return "[" + Joined(all) + "]";
}

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  std::vector<std::string> axes;
  for (const std::int64_t axis : shape) axes.push_back(std::to_string(axis));
  return Joined(axes, "x");
}

}  // namespace pocketformer
