#include "espalier/params/safetensors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/params/safetensors_source.h"

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
  SafetensorsFile file;
  file.bytes_ = std::move(bytes);
  file.where_ = where;
  const std::span<const uint8_t> all(file.bytes_);
  ByteSource source;
  source.append_view(all);
  SafetensorsHeader header = read_safetensors_header(source, where);
  for (auto& [name, tensor] : header.tensors) {
    file.tensors_.emplace(name, TensorView{tensor.dtype, std::move(tensor.shape),
                                           all.subspan(tensor.begin, tensor.end - tensor.begin)});
  }
  file.metadata_ = std::move(header.metadata);
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
  std::vector<std::pair<std::string, TensorSource>> sources;
  for (const TensorData& tensor : tensors) {
    auto& source = sources.emplace_back(tensor.name, TensorSource{tensor.dtype, tensor.shape, {}});
    source.second.data.append_view(tensor.data);
  }
  return safetensors_source(sources, metadata).bytes();
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

AlignedVector<float> SafetensorsFile::weights(const std::string& name,
                                              const TensorView& tensor) const {
  AlignedVector<float> values = tensor.as_float(where_);
  if (!all_finite(values)) {
    fail(where_, "'", name,
         "' holds values that are not finite; the training that wrote them has probably diverged");
  }
  return values;
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
    const AlignedVector<float> values = file.weights(name, *tensor);
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
