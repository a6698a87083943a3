#include "espalier/client/session.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/codec/delta.h"

namespace espalier::client {

namespace {

// Names of what this layer adds to a client's state.
constexpr const char* kHeldModel = "held.model";
constexpr const char* kHeldMask = "held.mask";  // u32 round, then the encoded mask

Bytes held_mask_blob(const wire::TravellingMask& mask) {
  Bytes blob;
  ByteWriter out(blob);
  out.put(mask.round);
  out.bytes(mask.bytes);
  return blob;
}

// Whether a client's memory is of a task under this mask (null: under none).
bool same_mask(const ClientState* state, const wire::TravellingMask* mask) {
  const bool held = state != nullptr && state->blobs.contains(kHeldMask);
  if (mask == nullptr || !held) return (mask == nullptr) == !held;
  ByteReader in(state->blobs.at(kHeldMask), "round/client");
  return in.get<uint32_t>() == mask->round;
}

// An update with a mask of its own, or without it, whichever is shorter: at half a bit per value
// naming the values may cost more than sending them all.
wire::EncodedMessage encode_shortest(wire::Update& update, const codec::Codec& codec, Key key,
                                     const wire::WireLimits& limits) {
  wire::EncodedMessage message = encode_update(update, codec, key, limits);
  if (update.mask == nullptr || update.mask == limits.mask) return message;
  update.mask = nullptr;
  wire::EncodedMessage dense = encode_update(update, codec, key, limits);
  return dense.size_bytes() < message.size_bytes() ? std::move(dense) : std::move(message);
}

}  // namespace

int64_t max_task_values(const ParameterLayout& model) {
  return std::max<int64_t>(4 * model.size() + 1024, int64_t{65536} * 1001);
}

Session::Session(const wire::EncodedMessage& message, const ClientEnvironment& environment)
    : environment_(environment), limits_(environment.limits) {
  // Only what other clients receive too is worth keeping decoded.
  task_ = decode_task(
      message, environment.downlink, environment.limits,
      message.shared ? environment.decoded : nullptr, key_,
      [&](const wire::Task& head, std::span<const uint8_t> body) {
        return decode_delta(head, body);
      },
      [&](const wire::Task& head, uint32_t round) { return held_mask(head, round); });
  restore(task_);
  // A part of the model needs no description either: the server knows which it sent.
  if (!task_.units.empty()) limits_.model = narrow_layout(*environment.limits.model, task_.units);
  limits_.mask = task_.mask;
  check_model();
}

void Session::restore(const wire::Task& head) {
  if (head.state_version == 0 || previous_) return;
  if (environment_.states == nullptr)
    fail("round/client", "the task builds on a state, but this client keeps none");
  previous_ = environment_.states->get(head.client, head.state_version);
}

std::shared_ptr<const ParameterSet> Session::decode_delta(const wire::Task& head,
                                                          std::span<const uint8_t> body) {
  restore(head);
  const ParameterSet* held = nullptr;
  if (previous_ != nullptr) {
    const auto found = previous_->sets.find(kHeldModel);
    if (found != previous_->sets.end()) held = &found->second;
  }
  codec::DeltaReceiver receiver =
      held != nullptr ? codec::DeltaReceiver(environment_.downlink, *held, head.state_version)
                      : codec::DeltaReceiver(environment_.downlink, environment_.limits.model);
  receiver.apply(body);
  held_model_ = std::make_shared<ParameterSet>(receiver.state());
  return held_model_;
}

std::span<const uint8_t> Session::held_mask(const wire::Task& head, uint32_t round) {
  restore(head);
  if (previous_ == nullptr || !previous_->blobs.contains(kHeldMask))
    fail("round/client", "the task builds on a mask, but this client keeps none");
  const Bytes& blob = previous_->blobs.at(kHeldMask);
  ByteReader in(blob, "round/client");
  const auto held = in.get<uint32_t>();
  if (held != round)
    fail("round/client", "the task builds on the mask of round ", round,
         ", but this client has that of round ", held);
  return std::span(blob).subspan(sizeof(uint32_t));
}

void Session::check_model() const {
  for (const wire::Payload& payload : task_.payloads) {
    if (payload.name == wire::kModel && !(payload.values->layout() == *limits_.model))
      fail("round/task", "the model's weights are not of the size that the task names");
  }
}

void Session::run(const TrainerSource& trainer, const ClientData& data) {
  const auto algorithm = find_algorithm(environment_.algorithms, task_.algorithm)
                             .create({&task_.options, "task.options"}, {});
  ClientContext context{trainer(task_.units), data.dataset, data.samples, key_,
                        previous_.get(),      {},           data.test,    data.test_samples};
  // Stages and masks work on values.
  context.takes_differences = !uses_stages() && task_.mask == nullptr;
  update_ = algorithm->run(context, task_);
  update_.answers = task_.id();
  next_ = std::move(context.next);
}

wire::EncodedMessage Session::encode() {
  const Key key = key_.child(Purpose::kUplink);
  const codec::Codec& uplink = environment_.uplink;
  if (!uses_stages()) return encode_shortest(update_, uplink, key, limits_);
  // With feedback an update says more than what has changed now.
  if (update_.mask != task_.mask) update_.mask = nullptr;
  // What was lost of other weights is no correction of these.
  const ClientState* remembered =
      same_mask(previous_.get(), task_.mask.get()) ? previous_.get() : nullptr;
  return encode_update(
      update_, uplink, key, limits_,
      [&](const wire::Payload& payload, const prune::Mask* mask, Key payload_key, Bytes& out) {
        encode_through(environment_.stages, uplink, remembered, payload, mask, payload_key, next_,
                       out);
      });
}

void Session::remember() {
  if (!task_.keeps_state) return;
  if (task_.mask) next_.blobs.insert_or_assign(kHeldMask, held_mask_blob(*task_.mask));
  if (held_model_) next_.sets.insert_or_assign(kHeldModel, *held_model_);
  if (environment_.states == nullptr)
    fail("round/client", "the task asks for a state to be kept, but there is no place to keep it");
  environment_.states->put(task_.client, task_.round, task_.state_version, std::move(next_));
}

wire::EncodedMessage run_client_task(const wire::EncodedMessage& message,
                                     const ClientEnvironment& environment,
                                     const TrainerSource& trainer, const ClientData& data) {
  Session session(message, environment);
  session.run(trainer, data);
  wire::EncodedMessage update = session.encode();
  session.remember();
  return update;
}

}  // namespace espalier::client
