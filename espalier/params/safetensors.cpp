#include "espalier/params/safetensors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier {

namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  size_t bytes;
};
constexpr std::array<DTypeRow, 13> kDTypes = {{{DType::kBool, "BOOL", 1},
                                               {DType::kU8, "U8", 1},
                                               {DType::kI8, "I8", 1},
                                               {DType::kI16, "I16", 2},
                                               {DType::kU16, "U16", 2},
                                               {DType::kF16, "F16", 2},
                                               {DType::kBF16, "BF16", 2},
                                               {DType::kI32, "I32", 4},
                                               {DType::kU32, "U32", 4},
                                               {DType::kF32, "F32", 4},
                                               {DType::kF64, "F64", 8},
                                               {DType::kI64, "I64", 8},
                                               {DType::kU64, "U64", 8}}};

const DTypeRow& row(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

// The 16-bit floats as they are stored.
struct Half {
  uint16_t bits;
  explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits >> 15) << 31;
    const uint32_t exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
    if (exponent == 0) {  // Zero and subnormals: mantissa · 2^-24.
      const float value = static_cast<float>(mantissa) * 0x1p-24f;
      return sign != 0 ? -value : value;
    }
    const uint32_t widened = exponent == 31 ? 255u : exponent + 112u;
    return std::bit_cast<float>(sign | (widened << 23) | (mantissa << 13));
  }
};
struct BrainFloat {
  uint16_t bits;
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

// Calls visit.operator()<T>() for the type T in which a file stores values of `dtype`.
void visit_stored_type(DType dtype, std::string_view where, auto&& visit) {
  switch (dtype) {
    case DType::kBool:
    case DType::kU8:
      return visit.template operator()<uint8_t>();
    case DType::kI8:
      return visit.template operator()<int8_t>();
    case DType::kI16:
      return visit.template operator()<int16_t>();
    case DType::kU16:
      return visit.template operator()<uint16_t>();
    case DType::kF16:
      return visit.template operator()<Half>();
    case DType::kBF16:
      return visit.template operator()<BrainFloat>();
    case DType::kI32:
      return visit.template operator()<int32_t>();
    case DType::kU32:
      return visit.template operator()<uint32_t>();
    case DType::kF32:
      return visit.template operator()<float>();
    case DType::kF64:
      return visit.template operator()<double>();
    case DType::kI64:
      return visit.template operator()<int64_t>();
    case DType::kU64:
      return visit.template operator()<uint64_t>();
  }
  fail(where, "unknown tensor type ", static_cast<int>(dtype));
}

template <class Stored, class Out>
void convert(std::span<const uint8_t> data, Out& out) {
  for (size_t i = 0; i < out.size(); ++i) {
    Stored value;
    std::memcpy(&value, data.data() + i * sizeof(Stored), sizeof(Stored));
    out[i] = static_cast<typename Out::value_type>(value);
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) { return row(dtype).name; }
size_t dtype_bytes(DType dtype) { return row(dtype).bytes; }

int64_t TensorView::size() const { return static_cast<int64_t>(data.size() / dtype_bytes(dtype)); }

AlignedVector<float> TensorView::as_float(std::string_view where) const {
  AlignedVector<float> out(static_cast<size_t>(size()));
  visit_stored_type(dtype, where, [&]<class Stored> { convert<Stored>(data, out); });
  return out;
}

std::vector<int64_t> TensorView::as_int64(std::string_view where) const {
  std::vector<int64_t> out(static_cast<size_t>(size()));
  visit_stored_type(dtype, where, [&]<class Stored> {
    if constexpr (std::is_integral_v<Stored>)
      convert<Stored>(data, out);
    else
      fail(where, "expected integers, got ", dtype_name(dtype));
  });
  if (dtype != DType::kU64) return out;
  const auto large = std::find_if(out.begin(), out.end(), [](int64_t value) { return value < 0; });
  if (large != out.end()) {
    const auto index = static_cast<size_t>(large - out.begin());
    fail(where, "expected integers below 2^63, got ", value_text(index), " (value ", index, ")");
  }
  return out;
}

std::string TensorView::value_text(size_t index) const {
  std::string text;
  visit_stored_type(dtype, "safetensors", [&]<class Stored> {
    Stored value;
    std::memcpy(&value, data.data() + index * sizeof(Stored), sizeof(Stored));
    if constexpr (std::is_integral_v<Stored>)
      text = std::to_string(value);
    else if constexpr (std::is_same_v<Stored, double>)
      text = concat(value);
    else
      text = concat(static_cast<float>(value));
  });
  return text;
}

SafetensorsFile SafetensorsFile::parse(Bytes bytes, std::string_view where) {
  constexpr uint64_t kMaxHeader = 100'000'000;
  SafetensorsFile file;
  file.bytes_ = std::move(bytes);
  file.where_ = where;
  // What people have instead.
  const std::string_view head(reinterpret_cast<const char*>(file.bytes_.data()),
                              std::min<size_t>(file.bytes_.size(), 4));
  if (head.starts_with("PK\x03\x04") || head.starts_with("\x80\x02")) {
    fail(where,
         "expected a safetensors file, got one of torch.save; write it with "
         "safetensors.torch.save_file(model.state_dict(), \"weights.safetensors\")");
  }
  ByteReader reader(file.bytes_, where);
  const auto header_size = reader.get<uint64_t>();
  if (header_size > kMaxHeader)
    fail(where, "expected a safetensors header below 100 MB, got ", header_size, " bytes");
  const auto header_bytes = reader.take(header_size);
  const auto body = reader.take(reader.remaining());

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

  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) fail(where, "__metadata__ is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) fail(where, "the metadata '", key, "' is not a string");
        file.metadata_[key] = value.get<std::string>();
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
    TensorView view;
    const auto* known = std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeRow& r) {
      return r.name == dtype.get<std::string>();
    });
    if (known == kDTypes.end()) bad("unknown dtype " + dtype.get<std::string>());
    view.dtype = known->dtype;
    uint64_t expected = known->bytes;
    for (const auto& dimension : shape) {
      if (!dimension.is_number_unsigned()) bad("a dimension is not a whole number");
      const auto size = dimension.get<uint64_t>();
      if (size != 0 && expected > (uint64_t{1} << 48) / size) bad("the shape is impossibly large");
      expected *= size;
      view.shape.push_back(static_cast<int64_t>(size));
    }
    if (!offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
      bad("an offset is not a whole number");
    const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
    if (begin > end || end > body.size())
      bad(concat("data offsets ", begin, "…", end, " lie outside the file; it may be truncated"));
    if (end - begin != expected) bad(concat("expected ", expected, " bytes, got ", end - begin));
    view.data = body.subspan(begin, end - begin);
    ranges.emplace_back(begin, end);
    file.tensors_.emplace(name, std::move(view));
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered) fail(where, "the tensors overlap or leave holes at byte ", covered);
    covered = end;
  }
  if (covered != body.size()) fail(where, body.size() - covered, " bytes after the last tensor");
  return file;
}

SafetensorsFile SafetensorsFile::read(const std::filesystem::path& path) {
  return parse(read_file(path), path.string());
}

const TensorView* SafetensorsFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

Bytes write_safetensors(const std::vector<TensorData>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const TensorData& tensor : tensors) {
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8,
              ' ');  // The format asks for an aligned body; spaces are allowed at the end.
  Bytes out;
  out.reserve(8 + text.size() + offset);
  ByteWriter writer(out);
  writer.put(static_cast<uint64_t>(text.size()));
  writer.bytes({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  for (const TensorData& tensor : tensors) writer.bytes(tensor.data);
  return out;
}

Bytes write_safetensors(const ParameterSet& set,
                        const std::map<std::string, std::string>& metadata) {
  std::vector<TensorData> tensors;
  std::vector<std::vector<int64_t>> counters;  // Keeps the converted integers alive.
  counters.reserve(set.layout().tensors().size());
  for (const ParameterInfo& info : set.layout().tensors()) {
    const auto values = set.values(info);
    TensorData tensor{info.name, DType::kF32, info.shape, {}};
    if (info.role == Role::kCounter) {
      auto& integers = counters.emplace_back();
      for (float value : values) integers.push_back(std::llrint(value));
      tensor.dtype = DType::kI64;
      tensor.data = {reinterpret_cast<const uint8_t*>(integers.data()),
                     integers.size() * sizeof(int64_t)};
    } else {
      tensor.data = {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
    }
    tensors.push_back(std::move(tensor));
  }
  return write_safetensors(tensors, metadata);
}

Bytes write_safetensors(const std::map<std::string, const ParameterSet*>& sets,
                        const std::map<std::string, std::string>& metadata) {
  std::vector<TensorData> tensors;
  for (const auto& [prefix, set] : sets) {
    for (const ParameterInfo& info : set->layout().tensors()) {
      const auto values = set->values(info);
      tensors.push_back({prefix + info.name,
                         DType::kF32,
                         info.shape,
                         {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()}});
    }
  }
  return write_safetensors(tensors, metadata);
}

void read_parameters(const SafetensorsFile& file, const std::string& prefix, ParameterSet& set) {
  for (const ParameterInfo& info : set.layout().tensors()) {
    const std::string name = prefix + info.name;
    const TensorView* tensor = file.find(name);
    if (tensor == nullptr)
      fail(file.where(), "the tensor '", name, "' is missing; is this another model?");
    if (tensor->shape != info.shape) {
      fail(file.where(), "expected shape ", shape_text(info.shape), " for '", name, "', got ",
           shape_text(tensor->shape));
    }
    const AlignedVector<float> values = tensor->as_float(file.where());
    std::copy(values.begin(), values.end(), set.values(info).begin());
  }
}

void read_parameters(const SafetensorsFile& file, ParameterSet& set) {
  read_parameters(file, "", set);
  for (const auto& [name, tensor] : file.tensors()) {
    if (set.layout().find(name) == nullptr)
      fail(file.where(), "the model has no tensor '", name, "'; is this another model?");
  }
}

}  // namespace espalier
