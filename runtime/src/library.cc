#include "library.h"

#include <dlfcn.h>
#include <map>
#include <mutex>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/function.h>

#include "error.h"
#include "files.h"
#include "text.h"

namespace pocketformer {
namespace {

namespace ffi = tvm::ffi;

constexpr int kCpu = 1;         // kDLCPU
constexpr int kPooled = 2;      // the machine's allocator that keeps what it frees

// Kernels report errors through a symbol of this runtime. Where an app loaded the runtime for itself
// alone (Java and Python do), a model.so that names no library could not find it.
void ShowSymbols() {
  static const bool done = [] {
    Dl_info info;
    void* symbol = reinterpret_cast<void*>(&TVMFFIErrorSetRaisedFromCStrParts);
    if (dladdr(symbol, &info) == 0 || !info.dli_fname) return false;
    // The handle stays open: the runtime is as good as part of the program from now on.
    return dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_GLOBAL) != nullptr;
  }();
  static_cast<void>(done);
}

std::mutex loading;
std::map<FileIdentity, std::weak_ptr<const Library>> libraries;

// The file that a path led to last, and how many it led to before.
struct Place {
  FileIdentity file;
  int earlier;
};

std::map<std::string, Place> places;

// A file that took another's place, while that is still loaded, has to come by another path.
std::string FreshPath(const std::string& path, const FileIdentity& identity) {
  Place& place = places.try_emplace(path, Place{identity, 0}).first->second;
  if (place.file != identity) place = {identity, place.earlier + 1};
  return Detour(path, place.earlier);
}

ffi::Module Load(const std::string& path, const FileIdentity& identity) {
  ShowSymbols();
  try {
    return ffi::Module::LoadFromFile(FreshPath(path, identity));
  } catch (const ffi::Error& error) {
    throw Error("TVM cannot load " + path + ": " + Reason(error));
  }
}

}  // namespace

std::shared_ptr<const Library> Library::Open(const std::string& path) {
  const std::lock_guard<std::mutex> lock(loading);
  const FileIdentity identity = IdentityOf(path);
  std::erase_if(libraries, [](const auto& each) { return each.second.expired(); });
  std::weak_ptr<const Library>& known = libraries[identity];
  if (std::shared_ptr<const Library> library = known.lock()) return library;
  const auto library = std::make_shared<const Library>(Load(path, identity));
  known = library;
  return library;
}

ffi::Module Library::Machine() const {
  try {
    const ffi::Function load = FunctionOf(module_, "vm_load_executable", "model.so");
    auto machine = load().cast<ffi::Module>();
    FunctionOf(machine, "vm_initialization", "model.so")(kCpu, 0, kPooled);
    return machine;
  } catch (const ffi::Error& error) {
    throw Error("TVM cannot start model.so: " + Reason(error));
  }
}

ffi::Function FunctionOf(const ffi::Module& module, const std::string& name,
                         const std::string& who) {
  const ffi::Optional<ffi::Function> found = module->GetFunction(name, true);
  if (!found.has_value()) throw Error(who + " has no function " + Quoted(name));
  return *found;
}

std::string Reason(const ffi::Error& error) { return FirstLine(error.message()); }

}  // namespace pocketformer
