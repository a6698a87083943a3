#include "espalier/params/safetensors_source.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "espalier/base/error.h"

namespace espalier {

namespace {

std::optional<DType> dtype_of(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::kU64); ++i) {
    if (dtype_name(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace

ByteSource safetensors_source(const std::vector<std::pair<std::string, TensorSource>>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  ByteSource body;
  for (const auto& [name, tensor] : tensors) {
    const uint64_t offset = body.size();
    body.append(tensor.data);
    header[name] = {{"dtype", dtype_name(tensor.dtype)},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, body.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8,
              ' ');  // The format asks for an aligned body; spaces are allowed at the end.
  Bytes head;
  ByteWriter writer(head);
  writer.put(static_cast<uint64_t>(text.size()));
  writer.bytes({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  ByteSource file;
  file.append(std::move(head));
  file.append(body);
  return file;
}

SafetensorsHeader read_safetensors_header(const ByteSource& file, std::string_view where) {
  constexpr uint64_t kMaxHeader = 100'000'000;
  // What people have instead.
  char start[4];
  const std::string_view head(start, static_cast<size_t>(std::min<uint64_t>(file.size(), 4)));
  file.read(0, {reinterpret_cast<uint8_t*>(start), head.size()});
  if (head.starts_with("PK\x03\x04") || head.starts_with("\x80\x02")) {
    fail(where,
         "expected a safetensors file, got one of torch.save; write it with "
         "safetensors.torch.save_file(model.state_dict(), \"weights.safetensors\")");
  }
  SourceReader reader(file, where);
  const auto header_size = reader.get<uint64_t>();
  if (header_size > kMaxHeader)
    fail(where, "expected a safetensors header below 100 MB, got ", header_size, " bytes");
  const Bytes header_bytes = reader.part(header_size).bytes();
  const uint64_t body_begin = file.size() - reader.remaining(), body_size = reader.remaining();

  // Duplicate keys would silently shadow each other; the parser callback sees every key of the top
  // level.
  std::map<std::string, int> seen;
  bool too_deep = false;
  const nlohmann::json header = nlohmann::json::parse(
      header_bytes.begin(), header_bytes.end(),
      [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
        if (depth > 8) too_deep = true;
        if (depth == 1 && event == nlohmann::json::parse_event_t::key)
          ++seen[value.get<std::string>()];
        return !too_deep;
      },
      /*allow_exceptions=*/false);
  if (too_deep || header.is_discarded() || !header.is_object())
    fail(where, "the safetensors header is not a JSON object");
  for (const auto& [name, count] : seen) {
    if (count > 1) fail(where, "the tensor '", name, "' occurs ", count, " times");
  }

  SafetensorsHeader out;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) fail(where, "__metadata__ is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) fail(where, "the metadata '", key, "' is not a string");
        out.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    const auto bad = [&, &name = name](std::string_view what) {
      fail(where, "tensor '", name, "': ", what);
    };
    if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
        !entry.contains("data_offsets")) {
      bad("expected dtype, shape and data_offsets");
    }
    const auto& dtype = entry["dtype"];
    const auto& shape = entry["shape"];
    const auto& offsets = entry["data_offsets"];
    if (!dtype.is_string() || !shape.is_array() || !offsets.is_array() || offsets.size() != 2) {
      bad("dtype, shape or data_offsets has the wrong type");
    }
    const auto known = dtype_of(dtype.get<std::string>());
    if (!known) bad("unknown dtype " + dtype.get<std::string>());
    SafetensorsHeader::Tensor tensor;
    tensor.dtype = *known;
    uint64_t expected = dtype_bytes(*known);
    for (const auto& dimension : shape) {
      if (!dimension.is_number_unsigned()) bad("a dimension is not a whole number");
      const auto size = dimension.get<uint64_t>();
      // Each by itself, too: beside a 0 they may not be anything.
      constexpr uint64_t kMost = uint64_t{1} << 48;
      if (size > kMost || (size != 0 && expected > kMost / size))
        bad("the shape is impossibly large");
      expected *= size;
      tensor.shape.push_back(static_cast<int64_t>(size));
    }
    if (!offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
      bad("an offset is not a whole number");
    const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
    if (begin > end || end > body_size)
      bad(concat("data offsets ", begin, "…", end, " lie outside the file; it may be truncated"));
    if (end - begin != expected) bad(concat("expected ", expected, " bytes, got ", end - begin));
    tensor.begin = body_begin + begin;
    tensor.end = body_begin + end;
    ranges.emplace_back(begin, end);
    out.tensors.emplace(name, std::move(tensor));
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered) fail(where, "the tensors overlap or leave holes at byte ", covered);
    covered = end;
  }
  if (covered != body_size) fail(where, body_size - covered, " bytes after the last tensor");
  return out;
}

SafetensorsSource parse_safetensors(const ByteSource& file, std::string_view where) {
  SafetensorsHeader header = read_safetensors_header(file, where);
  SafetensorsSource out;
  for (auto& [name, tensor] : header.tensors) {
    out.tensors.emplace(name, TensorSource{tensor.dtype, std::move(tensor.shape),
                                           file.part(tensor.begin, tensor.end - tensor.begin)});
  }
  out.metadata = std::move(header.metadata);
  return out;
}

}  // namespace espalier
