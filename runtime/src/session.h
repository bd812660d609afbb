// Session: an opened bundle. Checks its files, maps its weights, runs it.
#ifndef POCKETFORMER_SESSION_H_
#define POCKETFORMER_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pocketformer {

// An input or output. An axis that is no number is a formula in named dimensions: "seq", "2*seq + 1".
struct TensorInfo {
  std::string name;
  std::string dtype;                // as numpy spells it: float32, int64, bfloat16
  std::vector<std::string> shape;
};

// An output of the last run; `data` stays valid until the next run or the session's end.
struct TensorView {
  const void* data;
  std::size_t bytes;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

// A kernel of a run, or ("vm.…") a step of TVM's machine, on the device's monotonic clock.
struct KernelCall {
  std::string name;
  std::int64_t start_ns;
  std::int64_t end_ns;
};

// Not thread-safe: one thread at a time. All methods throw Error, whose text is one sentence.
class Session {
 public:
  // Opens the bundle in `folder` after its checksums, format, TVM version, architecture and
  // instruction sets were found to fit. `threads` 0 takes what the manifest prefers, at most the
  // number of CPUs that this thread may use.
  static std::unique_ptr<Session> Open(const std::string& folder, int threads = 0);
  virtual ~Session() = default;

  virtual const std::vector<TensorInfo>& inputs() const = 0;
  virtual const std::vector<TensorInfo>& outputs() const = 0;
  virtual int threads() const = 0;
  // The bundle's level that runs, the last that the processor can; "" where it has one.
  virtual const std::string& level() const = 0;

  // Copies; checks rank, fixed sizes and that `bytes` fits. Sizes of named dimensions are compared
  // with each other in Run.
  virtual void SetInput(std::size_t index, const void* data, std::size_t bytes,
                        const std::vector<std::int64_t>& shape) = 0;
  virtual void Run() = 0;
  // Runs once and tells of every call, in order. With `mark`, system call 0x5155 (phase, index)
  // surrounds the run (phase 3, 4) and every kernel (1, 2; its place in what is returned), for an
  // instruction counter to see; where a sandbox kills on unknown system calls, leave it out.
  virtual std::vector<KernelCall> Profile(bool mark = false) = 0;
  virtual TensorView Output(std::size_t index) const = 0;
};

}  // namespace pocketformer

#endif  // POCKETFORMER_SESSION_H_
