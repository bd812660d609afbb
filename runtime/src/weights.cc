#include "weights.h"

#include <algorithm>
#include <string_view>
#include <tuple>

#include "error.h"
#include "json.h"
#include "text.h"

namespace pocketformer {
namespace {

using Kind = Json::Kind;

constexpr std::uint64_t kLargestHeader = 100'000'000;    // the safetensors library's own limit
constexpr std::size_t kLargestRank = 32;
constexpr std::string_view kPadding = "__padding__.", kMetadata = "__metadata__";

struct Span {
  std::string name;
  std::int64_t begin, end;
  Weight weight;
};

bool AreCounts(const Json& list) {
  return list.kind == Kind::kList &&
         std::all_of(list.items.begin(), list.items.end(), [](const Json& item) {
           return item.kind == Kind::kInteger && item.integer >= 0;
         });
}

std::vector<std::int64_t> Counts(const Json& list) {
  std::vector<std::int64_t> counts;
  for (const Json& item : list.items) counts.push_back(item.integer);
  return counts;
}

// Whether `bytes` is what a tensor of this dtype and shape takes.
bool GoesWith(std::int64_t bytes, const Dtype& dtype, const std::vector<std::int64_t>& shape) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return bytes == 0;
  std::int64_t size = dtype.bytes();
  for (std::int64_t axis : shape) {
    if (__builtin_mul_overflow(size, axis, &size)) return false;
  }
  return size == bytes;
}

Span ReadSpan(const std::string& name, const Json& entry, const std::string& where) {
  const std::string who = Quoted(name) + " in " + where;
  const Json* dtype_name = entry.Find("dtype");
  const Json* shape = entry.Find("shape");
  const Json* offsets = entry.Find("data_offsets");
  if (!dtype_name || !shape || !offsets || entry.items.size() != 3) {
    throw Error("the entry of " + who + " is not one of safetensors");
  }
  const Dtype* dtype =
      dtype_name->kind == Kind::kText ? FindSafetensorsDtype(dtype_name->text) : nullptr;
  if (!dtype) throw Error(who + " has the unknown dtype " + std::string(dtype_name->source));
  if (!AreCounts(*shape) || shape->items.size() > kLargestRank || !AreCounts(*offsets) ||
      offsets->items.size() != 2) {
    throw Error(who + " has a shape or offsets that are no sizes");
  }
  Span span{name, offsets->items[0].integer, offsets->items[1].integer, {}};
  span.weight = {dtype, Counts(*shape), nullptr};
  const std::int64_t bytes = span.end - span.begin;    // both are at least 0
  if (!GoesWith(bytes, *dtype, span.weight.shape)) {
    throw Error(who + " has " + std::to_string(bytes) +
                " bytes, which does not go with its shape");
  }
  return span;
}

void CheckSpans(std::vector<Span>& spans, std::size_t size, const std::string& where) {
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  std::int64_t position = 0;
  for (const Span& span : spans) {
    if (span.begin != position) {
      throw Error(Quoted(span.name) + " in " + where +
                  (span.begin < position ? " overlaps another tensor" : " comes after a hole"));
    }
    position = span.end;
  }
  if (static_cast<std::uint64_t>(position) != size) {
    throw Error(where + " is truncated or too long: " + std::to_string(size) +
                " bytes of data, not " + std::to_string(position));
  }
}

std::string_view Header(const MappedFile& content, const std::string& where) {
  if (content.size() < 8) {
    throw Error(where + " is truncated: it has " + std::to_string(content.size()) + " bytes");
  }
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | content.data()[i];
  if (length > std::min<std::uint64_t>(content.size() - 8, kLargestHeader)) {
    throw Error(where + " is truncated: its header alone should have " + std::to_string(length) +
                " bytes");
  }
  return {reinterpret_cast<const char*>(content.data()) + 8, static_cast<std::size_t>(length)};
}

}  // namespace

std::map<std::string, Weight> ReadWeights(const MappedFile& content, const std::string& where) {
  const std::string_view text = Header(content, where);
  const Json header = ParseObject(text, "the header of " + where);
  std::vector<Span> spans;
  for (std::size_t i = 0; i < header.names.size(); ++i) {
    if (header.names[i] == kMetadata) continue;
    spans.push_back(ReadSpan(header.names[i], header.items[i], where));
  }
  CheckSpans(spans, content.size() - 8 - text.size(), where);
  std::map<std::string, Weight> weights;
  for (Span& span : spans) {
    if (span.name.rfind(kPadding, 0) == 0) continue;
    const std::size_t offset = 8 + text.size() + static_cast<std::size_t>(span.begin);
    if (offset % kAlignment != 0) {
      throw Error(Quoted(span.name) + " in " + where + " is not aligned to " +
                  std::to_string(kAlignment) + " bytes");
    }
    span.weight.data = content.data() + offset;
    weights.emplace(span.name, std::move(span.weight));
  }
  return weights;
}

}  // namespace pocketformer
