#include "espalier/strategy/server_optimizers.h"

#include <algorithm>
#include <cmath>

namespace espalier::strategy {

void FedAvgM::start(const ServerSetup& setup) {
  FedAvg::start(setup);
  velocity_ = ParameterSet(setup.layout);
}

void FedAvgM::finish(const RoundInfo&, const RoundSums& sums, ParameterSet& global) {
  const ParameterSet mean = sums.mean(kDelta, layout());
  const auto momentum = static_cast<float>(options_.server_momentum);
  const auto lr = static_cast<float>(options_.server_lr);
  for_trainable(global.layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      float& velocity = velocity_.values()[i];
      velocity = momentum * velocity + mean.values()[i];
      global.values()[i] += lr * velocity;
    }
  });
  apply_untrained(mean, global);
}

void FedAdam::start(const ServerSetup& setup) {
  FedAvg::start(setup);
  first_ = ParameterSet(setup.layout);
  second_ = ParameterSet(setup.layout);
  const auto initial = static_cast<float>(options_.tau * options_.tau);
  std::fill(second_.values().begin(), second_.values().end(), initial);
}

void FedAdam::finish(const RoundInfo&, const RoundSums& sums, ParameterSet& global) {
  const ParameterSet mean = sums.mean(kDelta, layout());
  const auto beta1 = static_cast<float>(options_.server_beta1),
             beta2 = static_cast<float>(options_.server_beta2);
  const auto lr = static_cast<float>(options_.server_lr), tau = static_cast<float>(options_.tau);
  for_trainable(global.layout(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const float change = mean.values()[i], square = change * change;
      float& m = first_.values()[i];
      float& v = second_.values()[i];
      m = beta1 * m + (1 - beta1) * change;
      if (yogi_) {
        const float sign = static_cast<float>(v > square) - static_cast<float>(v < square);
        v -= (1 - beta2) * square * sign;
      } else {
        v = beta2 * v + (1 - beta2) * square;
      }
      global.values()[i] += lr * m / (std::sqrt(std::max(v, 0.0f)) + tau);
    }
  });
  apply_untrained(mean, global);
}

void FedAdam::save(ByteWriter& out) const {
  write_values(first_, out);
  write_values(second_, out);
}

void FedAdam::load(ByteReader& in) {
  read_values(in, first_);
  read_values(in, second_);
}

}  // namespace espalier::strategy
