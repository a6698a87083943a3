#include "espalier/wire/message.h"

#include <algorithm>
#include <array>

#include "espalier/base/error.h"
#include "espalier/wire/fields.h"

namespace espalier::wire {

namespace {

constexpr uint32_t kTaskMagic = 0x54505345;    // "ESPT"
constexpr uint32_t kUpdateMagic = 0x55505345;  // "ESPU"
constexpr size_t kMaxBodies = 1025;            // of a message: payloads and a mask
// Framing of a message in a stream: u32 head size, and u64 size per body.
constexpr uint64_t kHeadFrame = 4, kBodyFrame = 8;

void write_id(const TaskId& id, ByteWriter& out) {
  out.put(id.round);
  out.put(id.exchange);
  out.put(id.client);
}

TaskId read_id(ByteReader& in) {
  TaskId id;
  id.round = in.get<uint32_t>();
  id.exchange = in.get<uint32_t>();
  id.client = in.get<uint64_t>();
  return id;
}

// Where the mask of a message is: there is none, the last body has it, the receiver has it.
enum class MaskPlace : uint8_t { kNone = 0, kBody = 1, kHeld = 2 };

void write_mask(const std::shared_ptr<const wire::TravellingMask>& mask, bool held,
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
std::shared_ptr<const wire::TravellingMask> read_mask(
    ByteReader& in, const EncodedMessage& message,
    const std::shared_ptr<const ParameterLayout>& layout,
    const std::function<std::shared_ptr<const wire::TravellingMask>(uint32_t round)>& held) {
  const auto place = in.get<uint8_t>();
  if (place == static_cast<uint8_t>(MaskPlace::kNone)) return nullptr;
  const auto round = in.get<uint32_t>();
  if (place == static_cast<uint8_t>(MaskPlace::kHeld)) return held(round);
  if (place != static_cast<uint8_t>(MaskPlace::kBody))
    fail(in.where(), "unknown place ", int{place}, " of the mask");
  if (message.bodies.empty()) fail(in.where(), "the mask is missing");
  const Bytes& bytes = *message.bodies.back();
  return std::make_shared<wire::TravellingMask>(prune::decode_mask(bytes, layout, in.where()),
                                                bytes, round);
}

bool under_mask(const wire::Payload& payload, const wire::TravellingMask* mask) {
  return mask != nullptr && payload.values != nullptr &&
         payload.values->layout() == *mask->mask.layout();
}

// How a payload is laid out and coded.
constexpr uint8_t kInlineLayout = 1, kModelDelta = 2, kMasked = 4, kExact = 8;
constexpr uint8_t kFlags = kInlineLayout | kModelDelta | kMasked | kExact;

const codec::Codec& exact_codec() {
  static const std::unique_ptr<const codec::Codec> exact =
      codec::make_codec(Json::array(), "exact");
  return *exact;
}

const codec::Codec& codec_of(const wire::Payload& payload, const codec::Codec& codec) {
  return travels_exact(payload.coding, codec) ? exact_codec() : codec;
}

void write_payload_table(const std::vector<wire::Payload>& payloads, const EncodedMessage& message,
                         const codec::Codec& codec, const WireLimits& limits, bool model_delta,
                         const wire::TravellingMask* mask, ByteWriter& out) {
  out.put(static_cast<uint16_t>(payloads.size()));
  for (size_t i = 0; i < payloads.size(); ++i) {
    const wire::Payload& payload = payloads[i];
    out.string(payload.name);
    out.put(payload.weight);
    const auto& layout = payload.values_layout();
    const bool inline_layout = layout != limits.model && !(*layout == *limits.model);
    const bool delta = model_delta && payload.name == wire::kModel;
    const bool masked = !delta && under_mask(payload, mask);
    const bool exact = !delta && travels_exact(payload.coding, codec);
    out.put(static_cast<uint8_t>((inline_layout ? kInlineLayout : 0) | (delta ? kModelDelta : 0) |
                                 (masked ? kMasked : 0) | (exact ? kExact : 0)));
    if (inline_layout) write_layout(*layout, out);
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
  if (const auto version = in.get<uint8_t>(); version != kMessageVersion) {
    fail(in.where(), "expected version ", int{kMessageVersion}, ", got ", int{version},
         "; both sides must run the same release");
  }
}

std::vector<wire::Payload> read_payloads(
    ByteReader& in, const EncodedMessage& message, const codec::Codec& codec,
    const WireLimits& limits, const wire::TravellingMask* mask, bool mask_in_body,
    DecodedBodies* shared,
    const std::function<std::shared_ptr<const ParameterSet>(std::span<const uint8_t>)>& delta) {
  const auto count = in.get<uint16_t>();
  const size_t bodies = message.bodies.size() - (mask_in_body ? 1 : 0);
  if (count != bodies) fail(in.where(), "expected ", count, " payloads, got ", bodies);
  if (count > limits.max_payloads)
    fail(in.where(), "expected at most ", limits.max_payloads, " payloads, got ", count);
  std::vector<wire::Payload> payloads;
  for (size_t i = 0; i < count; ++i) {
    wire::Payload payload;
    payload.name = in.string(kMaxName);
    payload.weight = in.get<double>();
    const auto flags = in.get<uint8_t>();
    const bool exact = (flags & kExact) != 0;
    if ((flags & ~kFlags) != 0 ||
        ((flags & kMasked) != 0 && (mask == nullptr || (flags & ~kExact) != kMasked)) ||
        (exact && ((flags & kModelDelta) != 0 || limits.keep_encoded)))
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
      auto values = std::make_shared<ParameterSet>(
          ParameterSet::unset(masked ? mask->mask.compact_layout() : layout));
      payload.largest = (exact ? exact_codec() : codec).decode(*body, *values);
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

// Of the kept values alone when there is a mask.
void encode_values(const ParameterSet& values, const prune::Mask* mask, const codec::Codec& codec,
                   Key key, Bytes& out) {
  if (mask == nullptr) return codec.encode(values, key, out);
  codec.encode(mask->compact(values), key, out);
}

std::shared_ptr<const Bytes> encode_body(const ParameterSet& values, const prune::Mask* mask,
                                         const codec::Codec& codec, Key key) {
  auto bytes = std::make_shared<Bytes>();
  encode_values(values, mask, codec, key, *bytes);
  return bytes;
}

}  // namespace

bool travels_exact(Coding coding, const codec::Codec& codec) {
  if (coding == Coding::kRun || codec.lossless()) return false;
  return coding == Coding::kExact || !codec.unbiased() || !codec.spreads();
}

uint64_t EncodedMessage::size_bytes() const {
  uint64_t size = kHeadFrame + head.size();
  for (const auto& body : bodies) size += kBodyFrame + body->size();
  return size;
}

Bytes write_stream(const EncodedMessage& message) {
  Bytes stream;
  stream.reserve(message.size_bytes());
  write_stream(message, stream);
  return stream;
}

void write_stream(const EncodedMessage& message, Bytes& stream) {
  ByteWriter out(stream);
  out.put(static_cast<uint32_t>(message.head.size()));
  out.bytes(message.head);
  for (const auto& body : message.bodies) {
    out.put(static_cast<uint64_t>(body->size()));
    out.bytes(*body);
  }
}

EncodedMessage read_stream(std::span<const uint8_t> stream) {
  return read_stream(stream.size(), [&](uint64_t offset, std::span<uint8_t> out) {
    std::ranges::copy(stream.subspan(static_cast<size_t>(offset), out.size()), out.begin());
  });
}

EncodedMessage read_stream(uint64_t size,
                           const std::function<void(uint64_t, std::span<uint8_t>)>& read) {
  constexpr const char* kWhere = "round/stream";
  uint64_t at = 0;
  const auto take = [&](uint64_t bytes) {
    if (bytes > size - at)
      fail(kWhere, "truncated: expected ", bytes, " more bytes, got ", size - at);
    // Through a small buffer, so that the large one is written once and not zeroed before.
    Bytes part;
    part.reserve(static_cast<size_t>(bytes));
    std::array<uint8_t, size_t{32} << 10> piece;
    while (part.size() < bytes) {
      const auto some = std::span(piece).first(std::min<size_t>(piece.size(), bytes - part.size()));
      read(at, some);
      part.insert(part.end(), some.begin(), some.end());
      at += some.size();
    }
    return part;
  };
  const auto number = [&]<class Number>(Number) {
    const Bytes bytes = take(sizeof(Number));
    return ByteReader(bytes, kWhere).get<Number>();
  };
  EncodedMessage message;
  message.head = take(number(uint32_t{}));
  while (at < size) {
    if (message.bodies.size() >= kMaxBodies)
      fail(kWhere, "expected at most ", kMaxBodies, " bodies, got more");
    message.bodies.push_back(std::make_shared<Bytes>(take(number(uint64_t{}))));
  }
  return message;
}

EncodedMessage encode_task(const wire::Task& task, Key client_key, const codec::Codec& codec,
                           Key codec_key, const WireLimits& limits, EncodedBodies* shared,
                           std::shared_ptr<const Bytes> model_delta) {
  EncodedMessage message;
  message.shared = shared != nullptr;
  for (size_t i = 0; i < task.payloads.size(); ++i) {
    if (model_delta != nullptr && task.payloads[i].name == wire::kModel) {
      message.bodies.push_back(model_delta);
      continue;
    }
    const auto& values = task.payloads[i].values;
    const bool masked = under_mask(task.payloads[i], task.mask.get());
    const auto encode = [&] {
      return encode_body(*values, masked ? &task.mask->mask : nullptr,
                         codec_of(task.payloads[i], codec), codec_key.child(i));
    };
    message.bodies.push_back(shared != nullptr ? shared->get(values, encode) : encode());
  }
  ByteWriter out(message.head);
  out.put(kTaskMagic);
  out.put(kMessageVersion);
  out.put(static_cast<uint8_t>(task.kind));
  write_id(task.id(), out);
  out.put(task.state_version);
  out.put(client_key.value());
  out.put(static_cast<uint8_t>(task.keeps_state));
  out.string(task.algorithm);
  write_record(task.options, out);
  write_step_options(task.train, out);
  write_record(scalars_record(task.scalars), out);
  write_units(task.units, out);
  if (!task.units.empty()) write_training(task.submodel_training, out);
  const bool held = task.mask != nullptr && task.state_version >= task.mask->round;
  write_mask(task.mask, held, message, out);
  write_payload_table(task.payloads, message, codec, limits, model_delta != nullptr,
                      task.mask.get(), out);
  finish_head(message.head);
  return message;
}

wire::Task decode_task(const EncodedMessage& message, const codec::Codec& codec,
                       const WireLimits& limits, DecodedBodies* shared, Key& client_key,
                       const DeltaDecoder& delta, const HeldMask& held_mask) {
  ByteReader in(open_head(message.head, "round/task"), "round/task");
  read_magic(in, kTaskMagic);
  Task task;
  const auto kind = in.get<uint8_t>();
  if (kind > static_cast<uint8_t>(wire::TaskKind::kEvaluate))
    fail(in.where(), "unknown kind of task ", int{kind}, "; both sides must run the same release");
  task.kind = static_cast<wire::TaskKind>(kind);
  const TaskId id = read_id(in);
  task.round = id.round;
  task.exchange = id.exchange;
  task.client = id.client;
  task.state_version = in.get<uint32_t>();
  client_key = Key(in.get<uint64_t>());
  task.keeps_state = in.get<uint8_t>() != 0;
  task.algorithm = in.string(kMaxName);
  task.options = read_record(in);
  task.train = read_step_options(in);
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
    return std::make_shared<wire::TravellingMask>(prune::decode_mask(bytes, own.model, in.where()),
                                                  Bytes(bytes.begin(), bytes.end()), round);
  });
  in_body = in_body && task.mask != nullptr;
  const std::function<std::shared_ptr<const ParameterSet>(std::span<const uint8_t>)> difference =
      [&](std::span<const uint8_t> body) { return delta(task, body); };
  task.payloads = read_payloads(in, message, codec, own, task.mask.get(), in_body, shared,
                                delta ? difference : nullptr);
  return task;
}

EncodedMessage encode_update(const wire::Update& update, const codec::Codec& codec, Key codec_key,
                             const WireLimits& limits, const BodyEncoder& encode) {
  const auto encode_payload = [&](const wire::Payload& payload, const prune::Mask* mask, Key key,
                                  Bytes& out) {
    const codec::Codec& own = codec_of(payload, codec);
    if (encode && payload.coding == wire::Coding::kRun) return encode(payload, mask, key, out);
    if (payload.values != nullptr) return encode_values(*payload.values, mask, own, key, out);
    own.encode_difference(payload.before->layout(), payload.after, payload.before->values(), key,
                          out);
  };
  EncodedMessage message;
  for (size_t i = 0; i < update.payloads.size(); ++i) {
    auto body = std::make_shared<Bytes>();
    const wire::Payload& payload = update.payloads[i];
    const bool masked = under_mask(payload, update.mask.get());
    encode_payload(payload, masked ? &update.mask->mask : nullptr, codec_key.child(i), *body);
    message.bodies.push_back(std::move(body));
  }
  ByteWriter out(message.head);
  out.put(kUpdateMagic);
  out.put(kMessageVersion);
  write_id(update.answers, out);
  out.put(update.num_samples);
  write_record(scalars_record(update.scalars), out);
  write_mask(update.mask, update.mask == limits.mask, message, out);
  write_payload_table(update.payloads, message, codec, limits, /*model_delta=*/false,
                      update.mask.get(), out);
  finish_head(message.head);
  return message;
}

TaskId answered_task(const EncodedMessage& message) {
  ByteReader in(open_head(message.head, "round/update"), "round/update");
  read_magic(in, kUpdateMagic);
  return read_id(in);
}

wire::Update decode_update(const EncodedMessage& message, const codec::Codec& codec,
                           const WireLimits& limits) {
  ByteReader in(open_head(message.head, "round/update"), "round/update");
  read_magic(in, kUpdateMagic);
  Update update;
  update.answers = read_id(in);
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

}  // namespace espalier::wire
