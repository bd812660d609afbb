#include "manifest.h"

#include <algorithm>
#include <set>

#include "decode.h"
#include "error.h"
#include "json.h"
#include "sha256.h"
#include "text.h"

namespace pocketformer {
namespace {

using Kind = Json::Kind;

constexpr std::int64_t kFormatVersion = 1;

// The file's own checksum stands in it once, and was taken with zeros in its place.
bool MatchesItself(std::string_view text, const Json& manifest) {
  const Json* field = manifest.Find("checksum");
  if (!field || field->kind != Kind::kText || field->text.empty()) return false;
  const std::size_t place = text.find(field->text);
  if (place == std::string_view::npos) return false;
  Sha256 sha;
  sha.Update(text.data(), place);
  sha.Update(std::string(64, '0').data(), 64);
  const std::string_view rest = text.substr(place + field->text.size());
  sha.Update(rest.data(), rest.size());
  return sha.Hex() == field->text;
}

bool IsSha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

bool IsPlainName(const std::string& name) {
  constexpr std::string_view kLetters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  return !name.empty() && name.size() <= 100 &&
         name.find_first_not_of(kLetters) == std::string::npos &&
         std::string_view("._-").find(name[0]) == std::string_view::npos;
}

FileRecord ReadFile(const Field& field) {
  field.Has({"bytes", "sha256", "chunks"});
  const std::int64_t bytes = field.At("bytes").Integer();
  FileRecord record{static_cast<std::uint64_t>(bytes), field.At("chunks").Texts()};
  // Not (bytes + kChunk - 1) / kChunk, which may overflow.
  const std::uint64_t needed = record.bytes / kChunk + (record.bytes % kChunk != 0);
  if (bytes < 0 || record.chunks.size() != needed) {
    throw Error(field.where() + " is wrong: " + std::to_string(record.chunks.size()) +
                " checksums do not go with " + std::to_string(bytes) + " bytes");
  }
  if (!IsSha256(field.At("sha256").Text()) ||
      !std::all_of(record.chunks.begin(), record.chunks.end(), IsSha256)) {
    throw Error(field.where() + " is wrong: a sha256 is not 64 hexadecimal digits");
  }
  return record;
}

TargetRecord ReadTarget(const Field& field) {
  field.Has({"name", "arch", "os", "isa", "features", "vector_bits", "mcpu", "threads"});
  TargetRecord target{field.At("arch").Text(), field.At("os").Text(), field.At("isa").Texts(),
                      field.At("features").Texts(), field.At("threads").Integer()};
  return target;
}

TensorSpec ReadTensor(const Field& field, const char* kind, const std::string& file) {
  field.Has({"name", "shape", "dtype"});
  TensorSpec spec{field.At("name").Text(), {}, FindDtype(field.At("dtype").Text())};
  const std::string who =
      file + " is wrong: the " + std::string(kind) + " " + Quoted(spec.name) + " ";
  if (!spec.dtype) {
    throw Error(who + "has the unknown dtype " + Quoted(field.At("dtype").Text()));
  }
  field.At("shape").ForItems([&](const Field& axis) {
    if (axis.json().kind == Kind::kInteger) {
      if (axis.json().integer < 0) throw Error(who + "has a negative axis");
      spec.shape.emplace_back(axis.json().integer);
      return;
    }
    if (axis.json().kind != Kind::kText) axis.Refuse("a whole number or text");
    try {
      spec.shape.emplace_back(axis.Text());
    } catch (const Error& error) {
      throw Error(who + "is wrong: " + error.what());
    }
  });
  return spec;
}

Dim ReadDim(const Field& field) {
  field.Has({"low", "high", "buckets"});
  Dim dim;
  dim.low = field.At("low").Integer();
  if (!field.At("high").IsNull()) dim.high = field.At("high").Integer();
  field.At("buckets").ForItems([](const Field& size) { size.Integer(); });
  if (dim.low < 1) {
    throw Error(field.where() + " is wrong: a dimension is at least 1, not " +
                std::to_string(dim.low));
  }
  if (dim.high && *dim.high < dim.low) {
    throw Error(field.where() + " is wrong: the range " + std::to_string(dim.low) + ".." +
                std::to_string(*dim.high) + " is empty");
  }
  return dim;
}

Level ReadLevel(const Field& field) {
  field.Has({"name", "isa", "features", "mcpu", "vector_bits", "kernels", "code_bytes",
             "weight_bytes"});
  return {field.At("name").Text(), field.At("isa").Texts(), field.At("features").Texts()};
}

Entry ReadEntry(const Field& field) {
  field.Has({"function", "dims", "weights"}, {"level"});
  Entry entry{field.At("function").Text(), {}, field.At("weights").Texts(), ""};
  if (field.json().Find("level")) entry.level = field.At("level").Text();
  field.At("dims").ForFields([&](const std::string& name, const Field& size) {
    entry.dims.emplace_back(name, size.Integer());
  });
  return entry;
}

std::string NameFault(const std::vector<TensorSpec>& specs, const std::string& kind) {
  std::set<std::string> seen;
  for (const TensorSpec& spec : specs) {
    if (!seen.insert(spec.name).second) {
      return "the " + kind + " " + Quoted(spec.name) + " is given twice";
    }
  }
  return "";
}

// What parts that are sound by themselves contradict one another in; "" for nothing.
std::string Fault(const Manifest& manifest) {
  if (std::string fault = NameFault(manifest.inputs, "input"); !fault.empty()) return fault;
  if (std::string fault = NameFault(manifest.outputs, "output"); !fault.empty()) return fault;
  for (const TensorSpec& spec : manifest.inputs) {
    for (const Axis& axis : spec.shape) {
      for (const std::string& name : axis.formula.names()) {
        if (manifest.dims.contains(name)) continue;
        return "the input " + Quoted(spec.name) + " has the unknown dimension " + Quoted(name);
      }
    }
  }
  std::set<std::string> levels;
  for (const Level& level : manifest.levels) {
    if (!levels.insert(level.name).second) {
      return "the level " + Quoted(level.name) + " is given twice";
    }
  }
  if (levels.empty()) levels.insert("");
  if (manifest.entries.empty()) return "a bundle needs an entry";
  for (const Entry& entry : manifest.entries) {
    const std::string who = "the entry " + Quoted(entry.function);
    for (const auto& [name, size] : entry.dims) {
      if (!manifest.dims.contains(name)) return who + " fixes the unknown dimension " + Quoted(name);
    }
    if (!manifest.weights && !entry.weights.empty()) {
      return who + " takes weights, and there is no file of them";
    }
    if (!levels.contains(entry.level)) {
      return who + " has the unknown level " + Quoted(entry.level);
    }
  }
  for (const Level& level : manifest.levels) {
    if (std::none_of(manifest.entries.begin(), manifest.entries.end(),
                     [&](const Entry& entry) { return entry.level == level.name; })) {
      return "the level " + Quoted(level.name) + " has no entry";
    }
  }
  return "";
}

std::string FilesFault(const Manifest& manifest) {
  std::set<std::string> found, expected = {kLibraryFile};
  if (manifest.weights) expected.insert(manifest.weights->file);
  for (const auto& [name, record] : manifest.files) found.insert(name);
  for (const std::set<std::string>& names : {found, expected}) {
    for (const std::string& name : names) {
      if (!IsPlainName(name)) {
        return Quoted(name) + " is no plain file name inside the bundle's folder";
      }
    }
  }
  if (found == expected && !expected.contains("manifest.json")) return "";
  const auto shown = [](const std::set<std::string>& names) {
    std::vector<std::string> quoted;
    for (const std::string& name : names) quoted.push_back(Quoted(name));
    return "[" + Joined(quoted) + "]";
  };
  return "its files are " + shown(found) + ", not " + shown(expected);
}

Manifest Decode(const Field& field) {
  field.Has({"name", "target", "recipe", "inputs", "outputs", "dims", "entries", "operators",
             "weights", "files", "pocketformer_version", "tvm_version", "tvm_ffi_version",
             "created", "format_version", "checksum"},
            {"accuracy", "kernels", "levels", "memory"});
  Manifest manifest;
  manifest.tvm_version = field.At("tvm_version").Text();
  manifest.target = ReadTarget(field.At("target"));
  field.At("inputs").ForItems([&](const Field& spec) {
    manifest.inputs.push_back(ReadTensor(spec, "input", field.where()));
  });
  field.At("outputs").ForItems([&](const Field& spec) {
    manifest.outputs.push_back(ReadTensor(spec, "output", field.where()));
  });
  field.At("dims").ForFields([&](const std::string& name, const Field& dim) {
    manifest.dims.emplace(name, ReadDim(dim));
  });
  field.At("entries").ForItems([&](const Field& entry) {
    manifest.entries.push_back(ReadEntry(entry));
  });
  if (field.json().Find("levels")) {
    field.At("levels").ForItems([&](const Field& level) {
      manifest.levels.push_back(ReadLevel(level));
    });
  }
  if (const Field weights = field.At("weights"); !weights.IsNull()) {
    weights.Has({"file", "count", "bytes"});
    manifest.weights = {weights.At("file").Text(), weights.At("count").Integer()};
  }
  field.At("files").ForFields([&](const std::string& name, const Field& record) {
    manifest.files.emplace(name, ReadFile(record));
  });
  return manifest;
}

}  // namespace

std::string TargetRecord::Shown() const {
  return arch + " " + os + (isa.empty() ? "" : " (needs " + Joined(isa) + ")");
}

std::string TensorSpec::Shown() const {
  std::vector<std::string> axes;
  for (const Axis& axis : shape) axes.push_back(axis.text);
  return name + ": " + std::string(dtype->name) + "[" + Joined(axes) + "]";
}

Manifest Manifest::Parse(std::string_view text, const std::string& where) {
  const Json json = ParseObject(text, where);
  const Json* version = json.Find("format_version");
  if (!version || version->kind != Kind::kInteger) {
    throw Error(where + " has no format version; is this a pocketformer bundle?");
  }
  if (version->integer != kFormatVersion) {
    throw Error("the bundle has format version " + std::to_string(version->integer) +
                "; this pocketformer reads " + std::to_string(kFormatVersion));
  }
  if (!MatchesItself(text, json)) {
    throw Error(where + " was changed: it does not match its own checksum");
  }
  Manifest manifest = Decode({json, where});
  if (manifest.files.empty()) throw Error(where + " lists no files");
  std::string fault = Fault(manifest);
  if (fault.empty()) fault = FilesFault(manifest);
  if (!fault.empty()) throw Error(where + " is wrong: " + fault);
  return manifest;
}

}  // namespace pocketformer
