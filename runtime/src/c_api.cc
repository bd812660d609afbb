// The C API: Session behind functions that report every failure as a number and a sentence.
#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "axes.h"
#include "dtypes.h"
#include "error.h"
#include "pocketformer.h"
#include "session.h"
#include "text.h"

namespace {

using pocketformer::Error;
using pocketformer::TensorInfo;
using pocketformer::TensorView;

constexpr int kMostAxes = 64;

// Axes of inputs or outputs as C reads them: pointers into the session's own texts.
using Axes = std::vector<std::vector<const char*>>;

Axes AxesOf(const std::vector<TensorInfo>& infos) {
  Axes all;
  for (const TensorInfo& info : infos) {
    std::vector<const char*>& axes = all.emplace_back();
    for (const std::string& axis : info.shape) axes.push_back(axis.c_str());
  }
  return all;
}

}  // namespace

struct pf_session {
  explicit pf_session(std::unique_ptr<pocketformer::Session> opened)
      : session(std::move(opened)),
        input_axes(AxesOf(session->inputs())),
        output_axes(AxesOf(session->outputs())),
        views(session->outputs().size()) {}

  const std::unique_ptr<pocketformer::Session> session;
  const Axes input_axes, output_axes;
  std::vector<TensorView> views;                // what pf_get_output's pointers lead to
  std::vector<pocketformer::KernelCall> calls;
  std::vector<pf_call> c_calls;
};

namespace {

// Fixed memory: it can also tell that there is no more memory.
thread_local char last_error[2048] = "";

void Remember(std::string_view text) {
  const std::size_t size = std::min(text.size(), sizeof last_error - 1);
  std::memcpy(last_error, text.data(), size);
  last_error[size] = '\0';
}

// What `work` returns, or `failed` once its exception is remembered.
template <typename Work, typename Result>
Result Guarded(Result failed, Work work) noexcept {
  try {
    return work();
  } catch (const Error& error) {
    Remember(error.what());
  } catch (const std::bad_alloc&) {
    Remember("there is not enough memory");
  } catch (const std::exception& error) {
    const std::string_view text = error.what();
    Remember(text.substr(0, text.find('\n')));
  } catch (...) {
    Remember("an unknown error happened");
  }
  return failed;
}

template <typename T>
T& Checked(T* pointer, const char* what) {
  if (!pointer) throw Error(std::string(what) + " is a null pointer");
  return *pointer;
}

pocketformer::Session& SessionOf(const pf_session* session) {
  return *Checked(session, "the session").session;
}

std::size_t CheckedIndex(int index, std::size_t count, const char* kind) {
  if (index >= 0 && static_cast<std::size_t>(index) < count) return index;
  throw Error("there is no " + std::string(kind) + " " + std::to_string(index) +
              "; the bundle has " + std::to_string(count));
}

int Describe(const std::vector<TensorInfo>& infos, const Axes& axes, std::size_t index,
             pf_tensor_info* info) {
  const TensorInfo& found = infos[index];
  const pocketformer::Dtype* dtype = pocketformer::FindDtype(found.dtype);
  Checked(info, "where the description goes") = {
      found.name.c_str(), found.dtype.c_str(), static_cast<std::size_t>(dtype->bytes()),
      static_cast<int>(found.shape.size()), axes[index].data()};
  return PF_OK;
}

int Find(const std::vector<TensorInfo>& infos, const char* name, const char* kind) {
  const std::string wanted = &Checked(name, "the name");
  std::vector<std::string> names;
  for (std::size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].name == wanted) return static_cast<int>(i);
    names.push_back(pocketformer::Quoted(infos[i].name));
  }
  throw Error("the model has no " + std::string(kind) + " " + pocketformer::Quoted(wanted) +
              "; it has " + pocketformer::Joined(names));
}

}  // namespace

const char* pf_version(void) { return POCKETFORMER_VERSION; }

const char* pf_tvm_version(void) { return POCKETFORMER_TVM_VERSION; }

const char* pf_last_error(void) { return last_error; }

pf_session* pf_open(const char* folder, int threads) {
  return Guarded(static_cast<pf_session*>(nullptr), [&] {
    const std::string path = &Checked(folder, "the bundle's folder");
    return new pf_session(pocketformer::Session::Open(path, threads));
  });
}

void pf_close(pf_session* session) {
  Guarded(PF_OK, [&] {
    delete session;
    return PF_OK;
  });
}

const char* pf_level(const pf_session* session) {
  return Guarded(static_cast<const char*>(nullptr),
                 [&] { return SessionOf(session).level().c_str(); });
}

int pf_threads(const pf_session* session) {
  return Guarded(PF_ERROR, [&] { return SessionOf(session).threads(); });
}

int pf_input_count(const pf_session* session) {
  return Guarded(PF_ERROR,
                 [&] { return static_cast<int>(SessionOf(session).inputs().size()); });
}

int pf_output_count(const pf_session* session) {
  return Guarded(PF_ERROR,
                 [&] { return static_cast<int>(SessionOf(session).outputs().size()); });
}

int pf_describe_input(const pf_session* session, int index, pf_tensor_info* info) {
  return Guarded(PF_ERROR, [&] {
    const std::vector<TensorInfo>& infos = SessionOf(session).inputs();
    return Describe(infos, session->input_axes, CheckedIndex(index, infos.size(), "input"), info);
  });
}

int pf_describe_output(const pf_session* session, int index, pf_tensor_info* info) {
  return Guarded(PF_ERROR, [&] {
    const std::vector<TensorInfo>& infos = SessionOf(session).outputs();
    return Describe(infos, session->output_axes, CheckedIndex(index, infos.size(), "output"), info);
  });
}

int pf_find_input(const pf_session* session, const char* name) {
  return Guarded(PF_ERROR, [&] { return Find(SessionOf(session).inputs(), name, "input"); });
}

int pf_find_output(const pf_session* session, const char* name) {
  return Guarded(PF_ERROR, [&] { return Find(SessionOf(session).outputs(), name, "output"); });
}

int64_t pf_axis_size(const char* axis, const char* const* names, const int64_t* sizes, int count) {
  return Guarded(int64_t{PF_ERROR}, [&] {
    const std::string formula = &Checked(axis, "the axis");
    pocketformer::Sizes given;
    for (int i = 0; i < count; ++i) {
      const char* name = (&Checked(names, "the list of names"))[i];
      given[&Checked(name, "a name")] = (&Checked(sizes, "the list of sizes"))[i];
    }
    const int64_t size = pocketformer::Formula::Parse(formula).Evaluate(given);
    if (size >= 0) return size;
    throw Error("the axis " + pocketformer::Quoted(formula) + " is " + std::to_string(size));
  });
}

int pf_set_input(pf_session* session, int index, const void* data, size_t bytes,
                 const int64_t* shape, int rank) {
  return Guarded(PF_ERROR, [&] {
    pocketformer::Session& opened = SessionOf(session);
    const std::size_t place = CheckedIndex(index, opened.inputs().size(), "input");
    if (rank < 0) throw Error("a rank is at least 0, not " + std::to_string(rank));
    // Before the shape is read: no array is as long as a number that was never set may tell.
    if (rank > kMostAxes) throw Error("a rank is at most 64, not " + std::to_string(rank));
    if (rank > 0) Checked(shape, "the shape");
    opened.SetInput(place, data, bytes, std::vector<int64_t>(shape, shape + rank));
    return PF_OK;
  });
}

int pf_run(pf_session* session) {
  return Guarded(PF_ERROR, [&] {
    SessionOf(session).Run();
    return PF_OK;
  });
}

int pf_get_output(pf_session* session, int index, pf_tensor* tensor) {
  return Guarded(PF_ERROR, [&] {
    pocketformer::Session& opened = SessionOf(session);
    const std::size_t place = CheckedIndex(index, opened.outputs().size(), "output");
    pf_tensor& result = Checked(tensor, "where the output goes");
    TensorView& view = session->views[place];
    TensorView fresh = opened.Output(place);
    // An output that is asked for again keeps the shape that was handed out.
    if (view.data != fresh.data || view.shape != fresh.shape) view = std::move(fresh);
    result = {view.data, view.bytes, opened.outputs()[place].dtype.c_str(),
              static_cast<int>(view.shape.size()), view.shape.data()};
    return PF_OK;
  });
}

int pf_profile(pf_session* session, int mark, const pf_call** calls, size_t* count) {
  return Guarded(PF_ERROR, [&] {
    pocketformer::Session& opened = SessionOf(session);
    Checked(calls, "where the calls go");
    Checked(count, "where the number of calls goes");
    session->c_calls.clear();
    session->calls = opened.Profile(mark != 0);
    for (const pocketformer::KernelCall& call : session->calls) {
      session->c_calls.push_back({call.name.c_str(), call.start_ns, call.end_ns});
    }
    *calls = session->c_calls.data();
    *count = session->c_calls.size();
    return PF_OK;
  });
}
