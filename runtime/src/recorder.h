// What a virtual machine calls during a run, and when.
#ifndef POCKETFORMER_RECORDER_H_
#define POCKETFORMER_RECORDER_H_

#include <cstdint>
#include <string>
#include <tvm/ffi/function.h>
#include <vector>

#include "session.h"

namespace pocketformer {

class Recorder {
 public:
  // What TVM's machine calls before and after each call. It can be set once and not be taken away:
  // the recorder must outlive the machine, and costs next to nothing while nothing is recorded.
  tvm::ffi::Function Instrument();

  // Recording as long as it lives, from nothing on.
  class Recording {
   public:
    Recording(Recorder& recorder, bool mark);
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;
    ~Recording();

   private:
    Recorder& recorder_;
    const bool mark_;
  };

  const std::vector<KernelCall>& Calls() const { return calls_; }

 private:
  void Begin(const std::string& name);
  void End();

  bool recording_ = false;
  bool mark_ = false;
  std::vector<KernelCall> calls_;
  std::vector<std::size_t> running_;    // places in `calls_`, the innermost last
};

}  // namespace pocketformer

#endif  // POCKETFORMER_RECORDER_H_
