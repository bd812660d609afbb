#include "device/functions.h"

#include <cstdint>
#include <map>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include "device/bundles.h"
#include "device/define.h"
#include "device/folder.h"
#include "device/state.h"
#include "device/store.h"
#include "device/work_folder.h"
#include "error.h"
#include "files.h"
#include "text.h"

namespace pocketformer {
namespace {

using tvm::ffi::Bytes;
using tvm::ffi::Function;
using tvm::ffi::Module;

std::string_view View(const Bytes& bytes) { return {bytes.data(), bytes.size()}; }

// How often a client has uploaded a file of this name.
std::map<std::string, int> uploads;

Module LoadModule(WorkFolder& work, const std::string& name) {
  const std::string path = work.Path() + "/" + PlainName(name);
  const bool is_library = name.size() > 3 && name.compare(name.size() - 3, 3, ".so") == 0;
  if (!is_library) throw Error("only a .so can be loaded here, not " + Quoted(name));
  if (access(path.c_str(), R_OK) != 0) throw Error("this session has no file " + Quoted(name));
  return Module::LoadFromFile(Detour(path, uploads[name]));
}

void Remove(WorkFolder& work, const std::string& name) {
  if (unlink((work.Path() + "/" + PlainName(name)).c_str()) == 0) return;
  throw Error("this session has no file " + Quoted(name));
}

void Upload(WorkFolder& work, const std::string& name, std::string_view data) {
  NewFile file(work.Path(), "." + PlainName(name) + ".part", name);
  file.Write(data);
  file.Publish(name);
  ++uploads[name];
}

// The names that TVM's own clients use.
void DefineFileFunctions(WorkFolder& work) {
  Define("tvm.rpc.server.workpath", std::function([&work](std::string name) {
    return work.Path() + "/" + PlainName(name);
  }));
  Define("tvm.rpc.server.upload", std::function([&work](std::string name, Bytes data) {
    Upload(work, name, View(data));
  }));
  Define("tvm.rpc.server.download", std::function([&work](std::string name) {
    return Bytes(ReadFile(work.Path(), PlainName(name)));
  }));
  Define("tvm.rpc.server.remove",
         std::function([&work](std::string name) { Remove(work, name); }));
  Define("tvm.rpc.server.load_module",
         std::function([&work](std::string name) { return LoadModule(work, name); }));
}

void DefineStoreFunctions(Store& store) {
  Define("pocketformer.device.stored", std::function([&](std::string sha256, std::int64_t size) {
    return store.Has(sha256, size);
  }));
  Define("pocketformer.device.begin", std::function([&](std::string sha256, std::int64_t size) {
    store.Begin(sha256, size);
  }));
  Define("pocketformer.device.append", std::function([&](std::string sha256, Bytes data) {
    store.Append(sha256, View(data));
  }));
  Define("pocketformer.device.commit",
         std::function([&](std::string sha256) { store.Commit(sha256); }));
  Define("pocketformer.device.forget",
         std::function([&](std::string sha256) { store.Forget(sha256); }));
}

void DefineBundleFunctions(Bundles& bundles) {
  using Int = std::int64_t;
  Define("pocketformer.session.open", std::function([&](Bytes manifest, Int threads) {
    return bundles.Open(View(manifest), threads);
  }));
  Define("pocketformer.session.describe",
         std::function([&](Int handle) { return bundles.Describe(handle); }));
  Define("pocketformer.session.set",
         std::function([&](Int handle, Int index, Bytes data, std::string shape) {
    bundles.Set(handle, index, View(data), shape);
  }));
  Define("pocketformer.session.run", std::function([&](Int handle, Int warmup, Int runs) {
    return Bytes(bundles.Run(handle, warmup, runs));
  }));
  Define("pocketformer.session.output", std::function([&](Int handle, Int index) {
    const TensorView view = bundles.Output(handle, index);
    return Bytes(static_cast<const char*>(view.data), view.bytes);
  }));
  Define("pocketformer.session.output_shape", std::function([&](Int handle, Int index) {
    return ShapeText(bundles.Output(handle, index).shape);
  }));
  Define("pocketformer.session.profile", std::function([&](Int handle, Int runs) {
    return bundles.Profile(handle, runs);
  }));
  Define("pocketformer.session.close",
         std::function([&](Int handle) { bundles.Close(handle); }));
}

// TVM loads libraries through this function, also for a client that calls it by its own name.
void ConfineLibraries(WorkFolder& work) {
  constexpr char kName[] = "ffi.Module.load_from_file.so";
  const Function load = Function::GetGlobalRequired(kName);
  Define(kName, std::function([&work, load](std::string path, std::string format) {
    if (path.rfind(work.Path() + "/", 0) != 0 || (path + "/").find("/../") != std::string::npos) {
      throw Error(Quoted(path) + " lies outside the folder of this session");
    }
    return load(path, format).cast<Module>();
  }));
}

// Functions that would read or write other files, or talk to other machines from here.
void TakeAway() {
  for (const char* name : {"ffi.ModuleWriteToFile", "relax.ExecutableLoadFromFile",
                           "ffi.Module.load_from_file.relax.VMExecutable",
                           "runtime.LoadParamsFromFile", "runtime.SaveParamsToFile",
                           "rpc.Connect", "rpc.CreatePipeClient", "rpc.ServerLoop"}) {
    if (Function::GetGlobal(name).has_value()) Function::RemoveGlobal(name);
  }
}

}  // namespace

void DefineFunctions(const std::string& work, const std::string& files,
                     std::function<std::string()> info) {
  // They live as long as the process, which ends without looking back.
  static WorkFolder folder(work);
  static Store store(files);
  static Bundles bundles(folder, store);
  Define("pocketformer.device.info", std::move(info));
  Define("pocketformer.device.state", std::function([] { return StateJson(); }));
  DefineFileFunctions(folder);
  DefineStoreFunctions(store);
  DefineBundleFunctions(bundles);
  ConfineLibraries(folder);
  TakeAway();
}

}  // namespace pocketformer
