// The loaded model.so of a bundle, and TVM's virtual machines of it.
#ifndef POCKETFORMER_LIBRARY_H_
#define POCKETFORMER_LIBRARY_H_

#include <memory>
#include <string>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>

namespace pocketformer {

// A file is loaded once in a process: its kernels keep a link to the module that loaded it.
class Library {
 public:
  // The library at `path`, which all sessions of the process share. Throws Error.
  static std::shared_ptr<const Library> Open(const std::string& path);

  explicit Library(tvm::ffi::Module module) : module_(std::move(module)) {}

  // A new virtual machine of the library's functions.
  tvm::ffi::Module Machine() const;

 private:
  tvm::ffi::Module module_;
};

// A function of `module`. Throws Error, "WHO has no function NAME", where it has none.
tvm::ffi::Function FunctionOf(const tvm::ffi::Module& module, const std::string& name,
                              const std::string& who);

// TVM's error without its backtrace: the first line of its message.
std::string Reason(const tvm::ffi::Error& error);

}  // namespace pocketformer

#endif  // POCKETFORMER_LIBRARY_H_
