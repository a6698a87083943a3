#pragma once

#include "espalier/client/algorithm.h"

namespace espalier::client {

// Evaluates the task's model on the test samples that the client holds out: an update without
// payloads whose scalars are the sums below. Nothing is trained or remembered.
class Evaluation final : public ClientAlgorithm {
 public:
  static constexpr const char* kName = "evaluation";
  // Over the samples: of the losses (left out when it is not finite), of the correct predictions,
  // of ones.
  static constexpr const char* kLoss = "loss_sum";
  static constexpr const char* kCorrect = "correct";
  static constexpr const char* kCount = "count";
  using Options = NoOptions;
  explicit Evaluation(const Options&) {}
  wire::Update run(ClientContext& context, const wire::Task& task) const override;
};

}  // namespace espalier::client
