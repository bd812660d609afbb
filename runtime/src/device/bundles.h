// The bundles that a client has opened, by number.
#ifndef POCKETFORMER_DEVICE_BUNDLES_H_
#define POCKETFORMER_DEVICE_BUNDLES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "device/store.h"
#include "device/work_folder.h"
#include "session.h"

namespace pocketformer {

// All methods throw Error, whose text is one sentence for the client.
class Bundles {
 public:
  Bundles(WorkFolder& work, Store& store) : work_(work), store_(store) {}

  // Puts a bundle together from the store's files that `manifest` names, and opens it.
  std::int64_t Open(std::string_view manifest, std::int64_t threads);
  void Close(std::int64_t handle);

  // {"inputs": [{"name", "dtype", "shape": ["seq", "384"]}...], "outputs": ..., "threads": 1}
  std::string Describe(std::int64_t handle);
  // `shape` is "1x128", "" that of a scalar.
  void Set(std::int64_t handle, std::int64_t index, std::string_view data,
           const std::string& shape);
  // Little-endian int64 nanoseconds of each of `runs`, after `warmup` more.
  std::string Run(std::int64_t handle, std::int64_t warmup, std::int64_t runs);
  TensorView Output(std::int64_t handle, std::int64_t index);
  // A list of [name, start, end] for each of `runs`.
  std::string Profile(std::int64_t handle, std::int64_t runs);

 private:
  Session& At(std::int64_t handle);

  struct Opened {
    std::unique_ptr<Session> session;
    std::string folder;
  };
  WorkFolder& work_;
  Store& store_;
  std::map<std::int64_t, Opened> opened_;
  std::int64_t count_ = 0;
};

// "1x128" for {1, 128}.
std::string ShapeText(const std::vector<std::int64_t>& shape);

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_BUNDLES_H_
