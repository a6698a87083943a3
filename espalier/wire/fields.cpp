#include "espalier/wire/fields.h"

#include "espalier/base/error.h"
#include "espalier/base/options.h"
#include "espalier/base/varint.h"

namespace espalier::wire {

namespace {

constexpr size_t kMaxEntries = 1024;                   // of a record
constexpr size_t kMaxTensors = 65536;                  // of an inline layout
constexpr size_t kMaxGroups = 65536, kMaxWidths = 64;  // of a task's architecture

enum class ValueType : uint8_t { kBool = 0, kInteger = 1, kNumber = 2, kString = 3 };

}  // namespace

void write_record(const Json& record, ByteWriter& out) {
  out.put(static_cast<uint16_t>(record.size()));
  for (const auto& [name, value] : record.items()) {
    out.string(name);
    if (value.is_boolean()) {
      out.put(static_cast<uint8_t>(ValueType::kBool));
      out.put(static_cast<uint8_t>(value.get<bool>()));
    } else if (value.is_number_integer()) {
      out.put(static_cast<uint8_t>(ValueType::kInteger));
      out.put(value.get<int64_t>());
    } else if (value.is_number_float()) {
      out.put(static_cast<uint8_t>(ValueType::kNumber));
      out.put(value.get<double>());
    } else {
      ESPALIER_CHECK(value.is_string(), name);
      out.put(static_cast<uint8_t>(ValueType::kString));
      out.string(value.get<std::string>());
    }
  }
}

Json read_record(ByteReader& in) {
  Json record = Json::object();
  const auto count = in.get<uint16_t>();
  if (count > kMaxEntries)
    fail(in.where(), "a record of ", count, " entries exceeds the limit of ", kMaxEntries);
  for (size_t i = 0; i < count; ++i) {
    const std::string name = in.string(kMaxName);
    switch (static_cast<ValueType>(in.get<uint8_t>())) {
      case ValueType::kBool:
        record[name] = in.get<uint8_t>() != 0;
        break;
      case ValueType::kInteger:
        record[name] = in.get<int64_t>();
        break;
      case ValueType::kNumber:
        record[name] = in.get<double>();
        break;
      case ValueType::kString:
        record[name] = in.string(kMaxName);
        break;
      default:
        fail(in.where(), "unknown value type of '", name, "'");
    }
  }
  return record;
}

Json scalars_record(const std::map<std::string, double>& scalars) {
  Json record = Json::object();
  for (const auto& [name, value] : scalars) record[name] = value;
  return record;
}

std::map<std::string, double> read_scalars(ByteReader& in) {
  std::map<std::string, double> scalars;
  const Json record = read_record(in);
  for (const auto& [name, value] : record.items()) {
    if (!value.is_number()) fail(in.where(), "the scalar '", name, "' is not a number");
    scalars[name] = value.get<double>();
  }
  return scalars;
}

void write_layout(const ParameterLayout& layout, ByteWriter& out) {
  out.put(static_cast<uint32_t>(layout.tensors().size()));
  for (const ParameterInfo& tensor : layout.tensors()) {
    out.string(tensor.name);
    out.put(static_cast<uint8_t>(tensor.role));
    out.put(static_cast<uint8_t>(tensor.shape.size()));
    for (int64_t dimension : tensor.shape) out.put(dimension);
  }
}

std::shared_ptr<const ParameterLayout> read_layout(ByteReader& in, int64_t max_values) {
  const auto count = in.get<uint32_t>();
  if (count > kMaxTensors)
    fail(in.where(), "a layout of ", count, " tensors exceeds the limit of ", kMaxTensors);
  std::vector<ParameterInfo> tensors;
  for (size_t i = 0; i < count; ++i) {
    ParameterInfo tensor;
    tensor.name = in.string(kMaxName);
    const auto role = in.get<uint8_t>();
    if (role > static_cast<uint8_t>(Role::kCounter))
      fail(in.where(), "unknown role ", int{role}, " of '", tensor.name, "'");
    tensor.role = static_cast<Role>(role);
    const auto rank = in.get<uint8_t>();
    if (rank > 8) fail(in.where(), "'", tensor.name, "' has ", int{rank}, " dimensions");
    for (size_t d = 0; d < rank; ++d) tensor.shape.push_back(in.get<int64_t>());
    tensors.push_back(std::move(tensor));
  }
  auto layout = std::make_shared<ParameterLayout>(std::move(tensors));
  if (layout->size() > max_values) {
    fail(in.where(), "a payload of ", layout->size(), " values exceeds the limit of ", max_values);
  }
  return layout;
}

void write_units(const std::vector<int64_t>& units, ByteWriter& out) {
  Bytes bytes;
  put_varint(bytes, units.size());
  for (const int64_t count : units) put_varint(bytes, static_cast<uint64_t>(count));
  out.bytes(bytes);
}

std::vector<int64_t> read_units(ByteReader& in) {
  const uint64_t count = get_varint(in);
  if (count > kMaxGroups)
    fail(in.where(), "units of ", count, " groups exceed the limit of ", kMaxGroups);
  std::vector<int64_t> units;
  for (uint64_t g = 0; g < count; ++g) {
    const uint64_t value = get_varint(in);
    if (value < 1 || value > (uint64_t{1} << 40)) fail(in.where(), "impossible units ", value);
    units.push_back(static_cast<int64_t>(value));
  }
  return units;
}

// Only what differs from training a model plainly.
void write_training(const train::SubmodelTraining& training, ByteWriter& out) {
  const train::SubmodelTraining defaults;
  Json changed = Json::object();
  const auto put = [&](const char* name, const auto& value, const auto& usual) {
    if (value != usual) changed[name] = value;
  };
  put("distillation", training.distillation, defaults.distillation);
  put("temperature", training.temperature, defaults.temperature);
  put("scale", training.scale, defaults.scale);
  put("masked", training.masked_cross_entropy, defaults.masked_cross_entropy);
  put("static", training.static_statistics, defaults.static_statistics);
  write_record(changed, out);
  out.put(static_cast<uint8_t>(training.widths.size()));
  for (const auto& units : training.widths) write_units(units, out);
}

train::SubmodelTraining read_training(ByteReader& in) {
  train::SubmodelTraining training;
  const Json record = read_record(in);
  const auto get = [&](const char* name, auto& value) {
    using T = std::remove_reference_t<decltype(value)>;
    const auto found = record.find(name);
    if (found == record.end()) return;
    if (std::is_same_v<T, bool> ? !found->is_boolean() : !found->is_number())
      fail(in.where(), "'", name, "' of the sub-model's training has another type");
    value = found->get<T>();
  };
  get("distillation", training.distillation);
  get("temperature", training.temperature);
  get("scale", training.scale);
  get("masked", training.masked_cross_entropy);
  get("static", training.static_statistics);
  if (!(training.distillation >= 0 && training.distillation <= 1) ||
      !(training.temperature > 0 && training.temperature <= 1e6) ||
      !(training.scale > 0 && training.scale <= 1e6)) {
    fail(in.where(), "the sub-model's training is out of range");
  }
  const size_t widths = in.get<uint8_t>();
  if (widths > kMaxWidths) fail(in.where(), widths, " widths exceed the limit of ", kMaxWidths);
  for (size_t i = 0; i < widths; ++i) training.widths.push_back(read_units(in));
  return training;
}

void write_step_options(const train::StepOptions& options, ByteWriter& out) {
  write_record(changed_options(options), out);
}

train::StepOptions read_step_options(ByteReader& in) {
  const Json changed = read_record(in);
  train::StepOptions options;
  read_options({&changed, "task.train"}, {}, options);
  return options;
}

}  // namespace espalier::wire
