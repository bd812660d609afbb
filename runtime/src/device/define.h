// Functions that clients call by name.
#ifndef POCKETFORMER_DEVICE_DEFINE_H_
#define POCKETFORMER_DEVICE_DEFINE_H_

#include <exception>
#include <functional>
#include <string>
#include <utility>

#include <tvm/ffi/function.h>

namespace pocketformer {

// Registers `function`; what it throws reaches the client as its sentence alone.
template <typename Result, typename... Arguments>
void Define(const char* name, std::function<Result(Arguments...)> function) {
  auto guarded = [function = std::move(function)](Arguments... arguments) -> Result {
    try {
      return function(std::forward<Arguments>(arguments)...);
    } catch (const tvm::ffi::Error&) {
      throw;
    } catch (const std::exception& error) {
      throw tvm::ffi::Error("RuntimeError", error.what(), "");
    }
  };
  tvm::ffi::Function::SetGlobal(name, tvm::ffi::Function::FromTyped(std::move(guarded), name),
                                true);
}

}  // namespace pocketformer

#endif  // POCKETFORMER_DEVICE_DEFINE_H_
