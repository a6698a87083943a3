#include "espalier/round/client_session.h"

#include <algorithm>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/codec/delta.h"
#include "espalier/codec/feedback.h"

namespace espalier::round {

namespace {

// Names of what this layer adds to a client's state.
constexpr const char* kHeldModel = "held.model";
constexpr const char* kHeldMask = "held.mask";  // u32 round, then the encoded mask
std::string feedback_name(const std::string& payload) { return "feedback." + payload; }

const ParameterSet* find_set(const strategy::ClientState* state, const std::string& name) {
  if (state == nullptr) return nullptr;
  const auto found = state->sets.find(name);
  return found == state->sets.end() ? nullptr : &found->second;
}

Bytes held_mask_blob(const strategy::TravellingMask& mask) {
  Bytes blob;
  ByteWriter out(blob);
  out.put(mask.round);
  out.bytes(mask.bytes);
  return blob;
}

std::span<const uint8_t> held_mask_bytes(const strategy::ClientState* state, uint32_t round) {
  if (state == nullptr || !state->blobs.contains(kHeldMask))
    fail("round/client", "the task builds on a mask, but this client keeps none");
  const Bytes& blob = state->blobs.at(kHeldMask);
  ByteReader in(blob, "round/client");
  const auto held = in.get<uint32_t>();
  if (held != round)
    fail("round/client", "the task builds on the mask of round ", round,
         ", but this client has that of round ", held);
  return std::span(blob).subspan(sizeof(uint32_t));
}

// Whether a client's memory is of a task under this mask (null: under none).
bool same_mask(const strategy::ClientState* state, const strategy::TravellingMask* mask) {
  const bool held = state != nullptr && state->blobs.contains(kHeldMask);
  if (mask == nullptr || !held) return (mask == nullptr) == !held;
  ByteReader in(state->blobs.at(kHeldMask), "round/client");
  return in.get<uint32_t>() == mask->round;
}

// An update with a mask of its own, or without it, whichever is shorter: at half a bit per value
// naming the values may cost more than sending them all.
EncodedMessage encode_shortest(strategy::Update& update, const codec::Codec& codec, Key key,
                               const WireLimits& limits) {
  EncodedMessage message = encode_update(update, codec, key, limits);
  if (update.mask == nullptr || update.mask == limits.mask) return message;
  update.mask = nullptr;
  EncodedMessage dense = encode_update(update, codec, key, limits);
  return dense.size_bytes() < message.size_bytes() ? std::move(dense) : std::move(message);
}

// Encodes a payload with error feedback and keeps what it must remember in `next`.
void encode_with_feedback(Feedback feedback, const codec::Codec& codec,
                          const strategy::ClientState* previous, const strategy::Payload& payload,
                          const prune::Mask* mask, Key key, strategy::ClientState& next,
                          Bytes& out) {
  const std::string name = feedback_name(payload.name);
  const ParameterSet* kept = find_set(previous, name);
  ParameterSet memory = kept != nullptr && kept->layout() == payload.values->layout()
                            ? *kept
                            : ParameterSet(payload.values->shared_layout());
  if (mask != nullptr) {
    ESPALIER_CHECK(feedback == Feedback::kResidual);
    codec::ResidualFeedback residual(mask->compact(memory));
    residual.encode(codec, mask->compact(*payload.values), key, out);
    next.sets.insert_or_assign(name, mask->expand(residual.residual()));
    return;
  }
  if (feedback == Feedback::kEf21) {
    codec::Ef21 ef21(std::move(memory));
    ef21.encode(codec, *payload.values, key, out);
    ParameterSet estimate = ef21.estimate();
    // Statistics and counters travel whole every time: their estimate stays 0 on both sides.
    for (const ParameterInfo& tensor : estimate.layout().tensors()) {
      if (!is_trainable(tensor.role)) std::ranges::fill(estimate.values(tensor), 0.0f);
    }
    next.sets.insert_or_assign(name, std::move(estimate));
  } else {
    codec::ResidualFeedback residual(std::move(memory));
    residual.encode(codec, *payload.values, key, out);
    next.sets.insert_or_assign(name, residual.residual());
  }
}

// The statistics of the normalization layers for the model of the task, over the client's samples.
strategy::Update collect_statistics(const strategy::Task& task, train::Trainer& trainer,
                                    const data::Dataset& dataset,
                                    std::span<const uint32_t> samples) {
  const double started = thread_cpu_seconds();
  trainer.load(*task.payload(strategy::kModel).values);
  strategy::Update update;
  update.num_samples = static_cast<double>(samples.size());
  update.payloads.push_back({strategy::kStatistics,
                             std::make_shared<ParameterSet>(trainer.statistics(
                                 dataset, samples, static_cast<size_t>(task.train.batch_size))),
                             update.num_samples});
  // Two passes per batch, forward and backward.
  update.scalars[strategy::kMacs] =
      6.0 * static_cast<double>(trainer.macs_per_sample()) * update.num_samples;
  update.scalars[strategy::kTrainSeconds] = thread_cpu_seconds() - started;
  return update;
}

}  // namespace

Feedback choose_feedback(const std::string& option, const codec::Codec& uplink,
                         const strategy::Strategy& strategy, const SubmodelOptions& submodel,
                         const std::vector<DeviceOptions>& devices) {
  if (strategy.keeps_encoded()) {
    if (option == "residual" || option == "ef21") {
      fail("config", "error_feedback = \"", option,
           "\" is for changes of weights; this strategy sends feature maps, which do not repeat: "
           "set it to \"none\"");
    }
    return Feedback::kNone;
  }
  const bool whole = all_whole(submodel, devices), stay = units_stay(submodel, devices);
  if (option == "ef21" && strategy.masks())
    fail("config", "error_feedback = \"ef21\" does not go with masks; set it to \"none\"");
  if (option == "residual" && !stay) {
    fail("config",
         "error_feedback = \"residual\" needs clients that train the same units in every "
         "round; with submodel.name = \"",
         submodel.name, "\" use an unbiased uplink and error_feedback = \"none\"");
  }
  if (option == "ef21" && !whole)
    fail("config", "error_feedback = \"ef21\" does not go with [submodel]; set it to \"none\"");
  if (option == "residual") return Feedback::kResidual;
  if (option == "ef21") return Feedback::kEf21;
  if (option == "auto" && stay && !uplink.unbiased() && !uplink.lossless())
    return Feedback::kResidual;
  return Feedback::kNone;
}

const codec::Codec& uplink_of(strategy::TaskKind kind, const codec::Codec& uplink) {
  static const std::unique_ptr<const codec::Codec> exact =
      codec::make_codec(Json::array(), "uplink");
  const bool biased = !uplink.unbiased() && !uplink.lossless();
  return kind == strategy::TaskKind::kExplore && biased ? *exact : uplink;
}

int64_t max_task_values(const ParameterLayout& model) {
  return std::max<int64_t>(4 * model.size() + 1024, int64_t{65536} * 1001);
}

EncodedMessage run_client_task(const EncodedMessage& message, const ClientEnvironment& environment,
                               const TrainerSource& trainer, const ClientData& data) {
  Key client_key(0);
  std::shared_ptr<const strategy::ClientState> previous;
  const auto restore = [&](const strategy::Task& head) {
    if (head.state_version > 0 && !previous) {
      if (environment.states == nullptr)
        fail("round/client", "the task builds on a state, but this client keeps none");
      previous = environment.states->get(head.client, head.state_version);
    }
  };
  std::shared_ptr<const ParameterSet> held_model;
  const DeltaDecoder decode_delta = [&](const strategy::Task& head, std::span<const uint8_t> body) {
    restore(head);
    const ParameterSet* held = find_set(previous.get(), kHeldModel);
    codec::DeltaReceiver receiver =
        held != nullptr ? codec::DeltaReceiver(environment.downlink, *held, head.state_version)
                        : codec::DeltaReceiver(environment.downlink, environment.limits.model);
    receiver.apply(body);
    held_model = std::make_shared<ParameterSet>(receiver.state());
    return held_model;
  };
  // Only what other clients receive too is worth keeping decoded.
  const strategy::Task task =
      decode_task(message, environment.downlink, environment.limits,
                  message.shared ? environment.decoded : nullptr, client_key, decode_delta,
                  [&](const strategy::Task& head, uint32_t round) {
                    restore(head);
                    return held_mask_bytes(previous.get(), round);
                  });
  restore(task);
  const Key uplink_key = client_key.child(Purpose::kUplink);
  WireLimits limits = environment.limits;
  // A part of the model needs no description either: the server knows which it sent.
  if (!task.units.empty()) limits.model = narrow_layout(*environment.limits.model, task.units);
  for (const strategy::Payload& payload : task.payloads) {
    if (payload.name == strategy::kModel && !(payload.values->layout() == *limits.model))
      fail("round/task", "the model's weights are not of the size that the task names");
  }
  if (task.kind == strategy::TaskKind::kCalibrate) {
    return encode_update(collect_statistics(task, trainer(task.units), data.dataset, data.samples),
                         environment.uplink, uplink_key, limits);
  }
  strategy::ClientContext context{trainer(task.units), data.dataset,     data.samples,
                                  client_key,          previous.get(),   {},
                                  data.test,           data.test_samples};
  strategy::Update update = environment.strategy.run_client(context, task);
  limits.mask = task.mask;
  // With feedback an update says more than what has changed now.
  if (environment.feedback != Feedback::kNone && update.mask != task.mask) update.mask = nullptr;
  // What was lost of other weights is no correction of these.
  const strategy::ClientState* remembered =
      same_mask(previous.get(), task.mask.get()) ? previous.get() : nullptr;
  // An exploration is no step of training: nothing of it is remembered or made up for.
  if (task.kind == strategy::TaskKind::kExplore)
    return encode_update(update, uplink_of(task.kind, environment.uplink), uplink_key, limits);
  EncodedMessage encoded =
      environment.feedback == Feedback::kNone
          ? encode_shortest(update, environment.uplink, uplink_key, limits)
          : encode_update(
                update,
                [&](const strategy::Payload& payload, const prune::Mask* mask, Key key,
                    Bytes& out) {
                  encode_with_feedback(environment.feedback, environment.uplink, remembered,
                                       payload, mask, key, context.next, out);
                },
                uplink_key, limits);
  if (task.mask) context.next.blobs.insert_or_assign(kHeldMask, held_mask_blob(*task.mask));
  if (held_model) context.next.sets.insert_or_assign(kHeldModel, *held_model);
  // The state is kept last: a client that failed before has not moved on. The server counts on a
  // version of every round, also when there is nothing to remember yet.
  if (!context.next.empty() || environment.strategy.has_client_state()) {
    if (environment.states == nullptr)
      fail("round/client", "the strategy's clients have state, but there is no place to keep it");
    environment.states->put(task.client, task.round, task.state_version, std::move(context.next));
  }
  return encoded;
}

}  // namespace espalier::round
