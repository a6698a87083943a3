#include "espalier/round/client_errands.h"

#include <cmath>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/client/evaluation.h"
#include "espalier/client/recall.h"

namespace espalier::round {

Outgoing EvaluationErrand::prepare(uint64_t) {
  Outgoing out;
  out.codec_key = info_.key.child(Purpose::kDownlink);
  out.task.algorithm = client::Evaluation::kName;
  out.task.train = info_.train;
  out.task.payloads.push_back({wire::kModel, model_, 1});
  return out;
}

wire::WireLimits EvaluationErrand::limits(uint64_t, const Sent&) const {
  return {model_->shared_layout(), 0, 0};
}

void EvaluationErrand::accept(uint64_t client, const Sent&, wire::Update& update) {
  constexpr double kMostSamples = 1e9;
  using client::Evaluation;
  const double loss = update.scalars.contains(Evaluation::kLoss)
                          ? update.scalar(Evaluation::kLoss)
                          : std::numeric_limits<double>::infinity(),
               correct = update.scalar(Evaluation::kCorrect),
               count = update.scalar(Evaluation::kCount);
  const bool whole = std::floor(count) == count && std::floor(correct) == correct;
  if (!update.payloads.empty() || !whole || !(count >= 0 && count <= kMostSamples) ||
      !(correct >= 0 && correct <= count))
    fail("round/update", "expected an evaluation, got ", correct, " correct of ", count,
         " with a loss of ", loss);
  const std::lock_guard lock(mutex_);
  found_[client] = {loss, static_cast<uint64_t>(correct), static_cast<uint64_t>(count)};
}

train::EvalSums EvaluationErrand::sums() const {
  train::EvalSums sums;
  for (const auto& [client, found] : found_) {
    sums.loss += found.loss;
    sums.correct += found.correct;
    sums.count += found.count;
  }
  return sums;
}

Outgoing RecallErrand::prepare(uint64_t client) {
  Outgoing out;
  out.codec_key = info_.key.child(Purpose::kDownlink);
  out.task.algorithm = client::Recall::kName;
  out.task.options["set"] = set_;
  out.task.train = info_.train;
  out.task.state_version = versions_.at(client);
  return out;
}

wire::WireLimits RecallErrand::limits(uint64_t, const Sent&) const {
  return {model_, model_->size(), 1};
}

void RecallErrand::accept(uint64_t client, const Sent&, wire::Update& update) {
  if (update.payloads.size() != 1 || update.payloads[0].name != set_ ||
      !(update.payloads[0].values->layout() == *model_))
    fail("round/update", "expected the client's '", set_, "'");
  const std::lock_guard lock(mutex_);
  found_.emplace(client, *update.payloads[0].values);
}

}  // namespace espalier::round
