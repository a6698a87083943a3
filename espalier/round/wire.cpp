#include "espalier/round/wire.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/options.h"
#include "espalier/codec/varint.h"

namespace espalier::round {

namespace {

constexpr uint32_t kTaskMagic = 0x54505345;    // "ESPT"
constexpr uint32_t kUpdateMagic = 0x55505345;  // "ESPU"
constexpr uint8_t kVersion = 3;
constexpr size_t kMaxEntries = 1024;   // of a record, payloads of a message
constexpr size_t kMaxTensors = 65536;  // of an inline layout
constexpr size_t kMaxName = 1024;
constexpr size_t kMaxGroups = 65536, kMaxWidths = 64;  // of a task's architecture
// Framing of a message in a stream: u32 head size, and u64 size per body.
constexpr uint64_t kHeadFrame = 4, kBodyFrame = 8;

enum class ValueType : uint8_t { kBool = 0, kInteger = 1, kNumber = 2, kString = 3 };

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
  codec::put_varint(bytes, units.size());
  for (const int64_t count : units) codec::put_varint(bytes, static_cast<uint64_t>(count));
  out.bytes(bytes);
}

std::vector<int64_t> read_units(ByteReader& in) {
  const uint64_t count = codec::get_varint(in);
  if (count > kMaxGroups)
    fail(in.where(), "units of ", count, " groups exceed the limit of ", kMaxGroups);
  std::vector<int64_t> units;
  for (uint64_t g = 0; g < count; ++g) {
    const uint64_t value = codec::get_varint(in);
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

// Where the mask of a message is: there is none, the last body has it, the receiver has it.
enum class MaskPlace : uint8_t { kNone = 0, kBody = 1, kHeld = 2 };

void write_mask(const std::shared_ptr<const strategy::TravellingMask>& mask, bool held,
                EncodedMessage& message, ByteWriter& out) {
  const MaskPlace place = mask == nullptr ? MaskPlace::kNone
                          : held          ? MaskPlace::kHeld
                                          : MaskPlace::kBody;
  out.put(static_cast<uint8_t>(place));
  if (mask == nullptr) return;
  out.put(mask->round);
  if (!held) message.bodies.emplace_back(mask, &mask->bytes);
}

// `held` gives the bytes or the mask of the receiver, given the round; it throws Error when it has
// none.
std::shared_ptr<const strategy::TravellingMask> read_mask(
    ByteReader& in, const EncodedMessage& message,
    const std::shared_ptr<const ParameterLayout>& layout,
    const std::function<std::shared_ptr<const strategy::TravellingMask>(uint32_t round)>& held) {
  const auto place = in.get<uint8_t>();
  if (place == static_cast<uint8_t>(MaskPlace::kNone)) return nullptr;
  const auto round = in.get<uint32_t>();
  if (place == static_cast<uint8_t>(MaskPlace::kHeld)) return held(round);
  if (place != static_cast<uint8_t>(MaskPlace::kBody))
    fail(in.where(), "unknown place ", int{place}, " of the mask");
  if (message.bodies.empty()) fail(in.where(), "the mask is missing");
  const Bytes& bytes = *message.bodies.back();
  return std::make_shared<strategy::TravellingMask>(prune::decode_mask(bytes, layout, in.where()),
                                                    bytes, round);
}

bool under_mask(const strategy::Payload& payload, const strategy::TravellingMask* mask) {
  return mask != nullptr && payload.values != nullptr &&
         payload.values->layout() == *mask->mask.layout();
}

// How a payload is laid out and coded.
constexpr uint8_t kInlineLayout = 1, kModelDelta = 2, kMasked = 4;

void write_payload_table(const std::vector<strategy::Payload>& payloads,
                         const EncodedMessage& message, const WireLimits& limits, bool model_delta,
                         const strategy::TravellingMask* mask, ByteWriter& out) {
  out.put(static_cast<uint16_t>(payloads.size()));
  for (size_t i = 0; i < payloads.size(); ++i) {
    const strategy::Payload& payload = payloads[i];
    out.string(payload.name);
    out.put(payload.weight);
    const bool inline_layout = payload.values->shared_layout() != limits.model &&
                               !(payload.values->layout() == *limits.model);
    const bool delta = model_delta && payload.name == strategy::kModel;
    out.put(static_cast<uint8_t>((inline_layout ? kInlineLayout : 0) | (delta ? kModelDelta : 0) |
                                 (!delta && under_mask(payload, mask) ? kMasked : 0)));
    if (inline_layout) write_layout(payload.values->layout(), out);
    out.put(static_cast<uint64_t>(message.bodies[i]->size()));
  }
}

void finish_head(Bytes& head) { ByteWriter(head).put(checksum32(head)); }

// The head without its checksum, which is verified.
std::span<const uint8_t> open_head(const Bytes& head, std::string_view where) {
  if (head.size() < 4) fail(where, "the message is truncated");
  const auto content = std::span<const uint8_t>(head).first(head.size() - 4);
  uint32_t expected;
  std::memcpy(&expected, head.data() + content.size(), 4);
  if (checksum32(content) != expected)
    fail(where, "the message is damaged: its checksum does not match");
  return content;
}

void read_magic(ByteReader& in, uint32_t magic) {
  if (in.get<uint32_t>() != magic) fail(in.where(), "this is not such a message");
  if (const auto version = in.get<uint8_t>(); version != kVersion) {
    fail(in.where(), "expected version ", int{kVersion}, ", got ", int{version},
         "; both sides must run the same release");
  }
}

std::vector<strategy::Payload> read_payloads(
    ByteReader& in, const EncodedMessage& message, const codec::Codec& codec,
    const WireLimits& limits, const strategy::TravellingMask* mask, bool mask_in_body,
    DecodedBodies* shared,
    const std::function<std::shared_ptr<const ParameterSet>(std::span<const uint8_t>)>& delta) {
  const auto count = in.get<uint16_t>();
  const size_t bodies = message.bodies.size() - (mask_in_body ? 1 : 0);
  if (count != bodies) fail(in.where(), "expected ", count, " payloads, got ", bodies);
  if (count > limits.max_payloads)
    fail(in.where(), "expected at most ", limits.max_payloads, " payloads, got ", count);
  std::vector<strategy::Payload> payloads;
  for (size_t i = 0; i < count; ++i) {
    strategy::Payload payload;
    payload.name = in.string(kMaxName);
    payload.weight = in.get<double>();
    const auto flags = in.get<uint8_t>();
    if ((flags & ~(kInlineLayout | kModelDelta | kMasked)) != 0 ||
        ((flags & kMasked) != 0 && (mask == nullptr || flags != kMasked)))
      fail(in.where(), "payload '", payload.name, "' has unknown flags ", int{flags});
    const auto layout =
        (flags & kInlineLayout) != 0 ? read_layout(in, limits.max_values) : limits.model;
    const auto size = in.get<uint64_t>();
    const auto& body = message.bodies[i];
    if (size != body->size())
      fail(in.where(), "payload '", payload.name, "': expected ", size, " bytes, got ",
           body->size());
    const auto decode = [&]() -> std::shared_ptr<const ParameterSet> {
      const bool masked = (flags & kMasked) != 0;
      auto values = std::make_shared<ParameterSet>(masked ? mask->mask.compact_layout() : layout);
      codec.decode(*body, *values);
      if (masked) return std::make_shared<ParameterSet>(mask->mask.expand(*values));
      return values;
    };
    if ((flags & kModelDelta) != 0) {
      if (!delta)
        fail(in.where(), "payload '", payload.name, "' is a difference, but no state is held");
      payload.values = delta(*body);
    } else if (limits.keep_encoded) {
      payload.encoded = body;
      payload.layout = layout;
    } else {
      payload.values = shared != nullptr ? shared->get(body, decode) : decode();
    }
    if (payload.values && !(payload.values->layout() == *layout))
      fail(in.where(), "payload '", payload.name, "' has another layout");
    payloads.push_back(std::move(payload));
  }
  in.finish();
  return payloads;
}

std::shared_ptr<const Bytes> encode_body(const ParameterSet& values, const prune::Mask* mask,
                                         const codec::Codec& codec, Key key) {
  auto bytes = std::make_shared<Bytes>();
  codec.encode(mask != nullptr ? mask->compact(values) : values, key, *bytes);
  return bytes;
}

}  // namespace

uint64_t EncodedMessage::size_bytes() const {
  uint64_t size = kHeadFrame + head.size();
  for (const auto& body : bodies) size += kBodyFrame + body->size();
  return size;
}

EncodedMessage encode_task(const strategy::Task& task, Key client_key, const codec::Codec& codec,
                           Key codec_key, const WireLimits& limits, EncodedBodies* shared,
                           std::shared_ptr<const Bytes> model_delta) {
  EncodedMessage message;
  message.shared = shared != nullptr;
  for (size_t i = 0; i < task.payloads.size(); ++i) {
    if (model_delta != nullptr && task.payloads[i].name == strategy::kModel) {
      message.bodies.push_back(model_delta);
      continue;
    }
    const auto& values = task.payloads[i].values;
    const bool masked = under_mask(task.payloads[i], task.mask.get());
    const auto encode = [&] {
      return encode_body(*values, masked ? &task.mask->mask : nullptr, codec, codec_key.child(i));
    };
    message.bodies.push_back(shared != nullptr ? shared->get(values, encode) : encode());
  }
  // Only the training options that differ from their defaults travel.
  Json defaults = Json::object(), options = Json::object(), changed = Json::object();
  write_options(train::TrainOptions{}, defaults);
  write_options(task.train, options);
  for (const auto& [name, value] : options.items()) {
    if (value != defaults[name]) changed[name] = value;
  }
  ByteWriter out(message.head);
  out.put(kTaskMagic);
  out.put(kVersion);
  out.put(static_cast<uint8_t>(task.kind));
  out.put(task.round);
  out.put(task.client);
  out.put(task.state_version);
  out.put(client_key.value());
  write_record(changed, out);
  write_record(scalars_record(task.scalars), out);
  write_units(task.units, out);
  if (!task.units.empty()) write_training(task.submodel_training, out);
  const bool held = task.mask != nullptr && task.state_version >= task.mask->round;
  write_mask(task.mask, held, message, out);
  write_payload_table(task.payloads, message, limits, model_delta != nullptr, task.mask.get(), out);
  finish_head(message.head);
  return message;
}

strategy::Task decode_task(const EncodedMessage& message, const codec::Codec& codec,
                           const WireLimits& limits, DecodedBodies* shared, Key& client_key,
                           const DeltaDecoder& delta, const HeldMask& held_mask) {
  ByteReader in(open_head(message.head, "round/task"), "round/task");
  read_magic(in, kTaskMagic);
  strategy::Task task;
  const auto kind = in.get<uint8_t>();
  if (kind > static_cast<uint8_t>(strategy::TaskKind::kExplore))
    fail(in.where(), "unknown kind of task ", int{kind}, "; both sides must run the same release");
  task.kind = static_cast<strategy::TaskKind>(kind);
  task.round = in.get<uint32_t>();
  task.client = in.get<uint64_t>();
  task.state_version = in.get<uint32_t>();
  client_key = Key(in.get<uint64_t>());
  const Json changed = read_record(in);
  read_options({&changed, "task.train"}, {}, task.train);
  task.scalars = read_scalars(in);
  task.units = read_units(in);
  WireLimits own = limits;
  if (!task.units.empty()) {
    task.submodel_training = read_training(in);
    own.model = narrow_layout(*limits.model, task.units);
    for (const auto& width : task.submodel_training.widths) narrow_layout(*own.model, width);
  }
  bool in_body = true;
  task.mask = read_mask(in, message, own.model, [&](uint32_t round) {
    in_body = false;
    if (!held_mask) fail(in.where(), "the task builds on a mask that was not sent");
    const auto bytes = held_mask(task, round);
    return std::make_shared<strategy::TravellingMask>(
        prune::decode_mask(bytes, own.model, in.where()), Bytes(bytes.begin(), bytes.end()), round);
  });
  in_body = in_body && task.mask != nullptr;
  const std::function<std::shared_ptr<const ParameterSet>(std::span<const uint8_t>)> difference =
      [&](std::span<const uint8_t> body) { return delta(task, body); };
  task.payloads = read_payloads(in, message, codec, own, task.mask.get(), in_body, shared,
                                delta ? difference : nullptr);
  return task;
}

EncodedMessage encode_update(const strategy::Update& update, const codec::Codec& codec,
                             Key codec_key, const WireLimits& limits) {
  return encode_update(
      update,
      [&](const strategy::Payload& payload, const prune::Mask* mask, Key key, Bytes& out) {
        codec.encode(mask != nullptr ? mask->compact(*payload.values) : *payload.values, key, out);
      },
      codec_key, limits);
}

EncodedMessage encode_update(const strategy::Update& update, const BodyEncoder& encode,
                             Key codec_key, const WireLimits& limits) {
  EncodedMessage message;
  for (size_t i = 0; i < update.payloads.size(); ++i) {
    auto body = std::make_shared<Bytes>();
    const strategy::Payload& payload = update.payloads[i];
    const bool masked = under_mask(payload, update.mask.get());
    encode(payload, masked ? &update.mask->mask : nullptr, codec_key.child(i), *body);
    message.bodies.push_back(std::move(body));
  }
  ByteWriter out(message.head);
  out.put(kUpdateMagic);
  out.put(kVersion);
  out.put(update.num_samples);
  write_record(scalars_record(update.scalars), out);
  write_mask(update.mask, update.mask == limits.mask, message, out);
  write_payload_table(update.payloads, message, limits, /*model_delta=*/false, update.mask.get(),
                      out);
  finish_head(message.head);
  return message;
}

strategy::Update decode_update(const EncodedMessage& message, const codec::Codec& codec,
                               const WireLimits& limits) {
  ByteReader in(open_head(message.head, "round/update"), "round/update");
  read_magic(in, kUpdateMagic);
  strategy::Update update;
  update.num_samples = in.get<double>();
  update.scalars = read_scalars(in);
  bool in_body = true;
  update.mask = read_mask(in, message, limits.model, [&](uint32_t) {
    in_body = false;
    if (limits.mask == nullptr)
      fail(in.where(), "the update is under a mask, but its task had none");
    return limits.mask;
  });
  in_body = in_body && update.mask != nullptr;
  update.payloads =
      read_payloads(in, message, codec, limits, update.mask.get(), in_body, nullptr, {});
  return update;
}

}  // namespace espalier::round
