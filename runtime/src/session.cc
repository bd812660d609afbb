#include "session.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>
#include <utility>

#include "bundle.h"
#include "error.h"
#include "library.h"
#include "recorder.h"
#include "signature.h"
#include "tensors.h"
#include "text.h"
#include "threads.h"

namespace pocketformer {
namespace {

namespace ffi = tvm::ffi;

// Every size of a symbolic bundle leaves buffers of its own in TVM's pool, which never shrinks by
// itself. After so many sizes the unused ones are let go.
constexpr std::size_t kSizesKept = 8;

std::vector<TensorInfo> InfoOf(const std::vector<TensorSpec>& specs) {
  std::vector<TensorInfo> all;
  for (const TensorSpec& spec : specs) {
    TensorInfo info{spec.name, std::string(spec.dtype->name), {}};
    for (const Axis& axis : spec.shape) info.shape.push_back(axis.text);
    all.push_back(std::move(info));
  }
  return all;
}

// An input's values, in memory of the session's own.
struct Input {
  Shape shape;
  ffi::Tensor tensor;
};

class OpenSession final : public Session {
 public:
  OpenSession(Bundle bundle, int threads)
      : bundle_(std::move(bundle)),
        signature_(bundle_.manifest, bundle_.level),
        input_infos_(InfoOf(bundle_.manifest.inputs)),
        output_infos_(InfoOf(bundle_.manifest.outputs)),
        threads_(threads),
        library_(Library::Open(bundle_.library)),
        machine_(library_->Machine()),
        given_(bundle_.manifest.inputs.size()) {
    Bind();
  }

  const std::vector<TensorInfo>& inputs() const override { return input_infos_; }
  const std::vector<TensorInfo>& outputs() const override { return output_infos_; }
  int threads() const override { return threads_; }
  const std::string& level() const override { return bundle_.level; }

  void SetInput(std::size_t index, const void* data, std::size_t bytes,
                const Shape& shape) override {
    if (index >= given_.size()) {
      throw Error("there is no input " + std::to_string(index) + "; the model takes " +
                  signature_.Inputs());
    }
    const TensorSpec& spec = bundle_.manifest.inputs[index];
    signature_.CheckInput(spec, shape, bytes);
    if (!data && bytes > 0) throw Error("the data of " + spec.name + " is a null pointer");
    std::optional<Input>& input = given_[index];
    if (!input || input->shape != shape) {
      input.reset();    // its memory goes before the new one's is taken
      input = Input{shape, NewTensor(shape, *spec.dtype)};
    }
    if (bytes > 0) std::copy_n(static_cast<const char*>(data), bytes, DataOf(input->tensor));
  }

  void Run() override {
    outputs_.clear();    // its memory is what this run needs
    const ffi::Function& function = functions_.at(Choose());
    std::vector<ffi::AnyView> arguments;
    for (const std::optional<Input>& input : given_) arguments.push_back(input->tensor);
    try {
      const Threads threads(threads_);
      ffi::Any result;
      function.CallPacked(arguments.data(), static_cast<int>(arguments.size()), &result);
      Take(result);
    } catch (const ffi::Error& error) {
      throw Error("the run failed: " + Reason(error));
    }
  }

  std::vector<KernelCall> Profile(bool mark) override {
    if (!recorder_) {
      auto recorder = std::make_unique<Recorder>();
      try {
        FunctionOf(machine_, "set_instrument", kLibraryFile)(recorder->Instrument());
      } catch (const ffi::Error& error) {
        throw Error("the run cannot be profiled: " + Reason(error));
      }
      recorder_ = std::move(recorder);
    }
    const Recorder::Recording recording(*recorder_, mark);
    Run();
    return recorder_->Calls();
  }

  TensorView Output(std::size_t index) const override {
    if (index >= output_infos_.size()) {
      throw Error("there is no output " + std::to_string(index) + "; the model has " +
                  std::to_string(output_infos_.size()));
    }
    if (outputs_.empty()) throw Error("there are no outputs before a run");
    const ffi::Tensor& tensor = outputs_[index];
    return {DataOf(tensor), BytesOf(tensor), output_infos_[index].dtype,
            Shape(tensor.shape().begin(), tensor.shape().end())};
  }

 private:
  // Gives the library's functions their weights.
  void Bind() {
    std::map<std::string, ffi::Tensor> tensors;
    for (const auto& [name, weight] : bundle_.weights) {
      tensors.emplace(name, MappedTensor(bundle_.weights_file, weight));
    }
    const ffi::Function save = FunctionOf(machine_, "save_function", kLibraryFile);
    for (const Entry* entry : signature_.entries()) {
      const std::string& name = entry->function;
      if (functions_.contains(name)) continue;
      FunctionOf(machine_, name, bundle_.library);
      const std::string bound = name + ".bound";
      std::vector<ffi::AnyView> arguments = {name, bound, true};
      for (const std::string& weight : entry->weights) arguments.push_back(tensors.at(weight));
      try {
        ffi::Any nothing;
        save.CallPacked(arguments.data(), static_cast<int>(arguments.size()), &nothing);
      } catch (const ffi::Error& error) {
        throw Error("TVM cannot give " + name + " its weights: " + Reason(error));
      }
      functions_.emplace(name, FunctionOf(machine_, bound, kLibraryFile));
    }
  }

  // The name of the function for what is given.
  const std::string& Choose() {
    std::vector<Shape> shapes;
    for (std::size_t i = 0; i < given_.size(); ++i) {
      if (!given_[i]) {
        throw Error("the input " + Quoted(input_infos_[i].name) +
                    " is missing; the model takes " + signature_.Inputs());
      }
      shapes.push_back(given_[i]->shape);
    }
    const std::string& function = signature_.Choose(signature_.SizesOf(shapes)).function;
    if (seen_.contains(shapes)) return function;
    if (seen_.size() >= std::max(kSizesKept, signature_.entries().size())) {
      seen_.clear();
      ffi::Function::GetGlobalRequired("vm.builtin.memory_manager.clear")();
    }
    seen_.insert(std::move(shapes));
    return function;
  }

  void Take(const ffi::Any& result) {
    const auto tensors = result.cast<ffi::Array<ffi::Tensor>>();
    if (tensors.size() != output_infos_.size()) {
      throw Error("model.so gave " + std::to_string(tensors.size()) + " outputs, not " +
                  std::to_string(output_infos_.size()));
    }
    std::vector<ffi::Tensor> taken;
    for (std::size_t i = 0; i < output_infos_.size(); ++i) {
      const TensorSpec& spec = bundle_.manifest.outputs[i];
      if (!IsPlain(tensors[i], *spec.dtype)) {
        throw Error("model.so gave another dtype than " + spec.Shown());
      }
      // An input that is handed back would change as soon as the next one is set.
      const bool shared = std::any_of(given_.begin(), given_.end(), [&](const auto& input) {
        return Overlap(input->tensor, tensors[i]);
      });
      taken.push_back(shared ? Copy(tensors[i], *spec.dtype) : tensors[i]);
    }
    outputs_ = std::move(taken);
  }

  const Bundle bundle_;
  const Signature signature_;
  const std::vector<TensorInfo> input_infos_, output_infos_;
  const int threads_;
  const std::shared_ptr<const Library> library_;    // outlives all that comes from it
  std::unique_ptr<Recorder> recorder_;              // the machine calls it
  const ffi::Module machine_;
  std::map<std::string, ffi::Function> functions_;
  std::vector<std::optional<Input>> given_;
  std::vector<ffi::Tensor> outputs_;
  std::set<std::vector<Shape>> seen_;
};

}  // namespace

std::unique_ptr<Session> Session::Open(const std::string& folder, int threads) {
  Bundle bundle = Bundle::Load(folder);
  const int count = ChooseThreads(threads, bundle.manifest.target.threads);
  return std::make_unique<OpenSession>(std::move(bundle), count);
}

}  // namespace pocketformer
