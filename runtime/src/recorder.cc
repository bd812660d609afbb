#include "recorder.h"

#include <ctime>
#include <string_view>
#include <unistd.h>

namespace pocketformer {
namespace {

namespace ffi = tvm::ffi;

constexpr long kMark = 0x5155;    // no kernel has such a system call: only a counter sees it
enum Phase : long { kKernelBegins = 1, kKernelEnds = 2, kRunBegins = 3, kRunEnds = 4 };

void Mark(Phase phase, std::size_t index) { syscall(kMark, phase, static_cast<long>(index)); }

std::int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * std::int64_t{1000000000} + now.tv_nsec;
}

// The machine's own steps, such as getting memory or computing sizes, are no kernels.
bool IsKernel(std::string_view name) {
  for (const std::string_view start : {"vm.", "shape_func", "compute_symbolic_expr"}) {
    if (name.substr(0, start.size()) == start) return false;
  }
  return true;
}

}  // namespace

ffi::Function Recorder::Instrument() {
  return ffi::Function::FromPacked([this](ffi::PackedArgs arguments, ffi::Any*) {
    if (!recording_) return;
    if (arguments[2].cast<bool>()) {
      Begin(arguments[1].cast<std::string>());
    } else {
      End();
    }
  });
}

// A mark is the last thing before a call and the first after it, since what lies between is counted.
void Recorder::Begin(const std::string& name) {
  running_.push_back(calls_.size());
  KernelCall& call = calls_.emplace_back(KernelCall{name, 0, 0});
  call.start_ns = Now();
  if (mark_ && IsKernel(name)) Mark(kKernelBegins, running_.back());
}

void Recorder::End() {
  const std::size_t place = running_.back();
  running_.pop_back();
  if (mark_ && IsKernel(calls_[place].name)) Mark(kKernelEnds, place);
  calls_[place].end_ns = Now();
}

Recorder::Recording::Recording(Recorder& recorder, bool mark) : recorder_(recorder), mark_(mark) {
  recorder_.calls_.clear();
  recorder_.running_.clear();
  recorder_.mark_ = mark;
  recorder_.recording_ = true;
  if (mark_) Mark(kRunBegins, 0);
}

Recorder::Recording::~Recording() {
  if (mark_) Mark(kRunEnds, 0);
  recorder_.recording_ = false;
}

}  // namespace pocketformer
