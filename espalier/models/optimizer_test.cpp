#include "espalier/nn/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "espalier/base/random.h"

namespace espalier::nn {
namespace {

std::vector<StepOptions> all_optimizers() {
  std::vector<StepOptions> all;
  for (const std::string name : {"sgd", "adam", "adamw"}) {
    StepOptions options;
    options.optimizer = name;
    options.lr = 0.03;
    options.weight_decay = 0.01;
    all.push_back(options);
    options.momentum = name == "sgd" ? 0.9 : 0;
    options.amsgrad = name != "sgd";
    all.push_back(options);
    options.nesterov = name == "sgd";
    if (options.nesterov) all.push_back(options);
  }
  return all;
}

std::vector<float> normal(size_t size, uint64_t seed) {
  std::vector<float> out(size);
  Stream stream(Key(seed), 0);
  for (float& value : out) value = static_cast<float>(stream.normal());
  return out;
}

// Vectors and what is left behind them must compute alike: a value's step depends neither on where
// it stands nor on how many stand beside it.
TEST(Optimizer, StepsAreTheSameInPieces) {
  const size_t size = 203;
  for (const StepOptions& options : all_optimizers()) {
    Optimizer whole, pieces;
    whole.start(options, size);
    pieces.start(options, size);
    std::vector<float> expected = normal(size, 1), weights = expected;
    std::vector<Segment> segments;
    for (size_t begin = 0, step = 1; begin < size; begin += step++)
      segments.push_back({begin, std::min(size, begin + step)});
    for (uint64_t step = 0; step < 3; ++step) {
      const std::vector<float> gradients = normal(size, 2 + step);
      whole.step(expected, gradients, {{0, size}});
      pieces.step(weights, gradients, segments);
    }
    EXPECT_EQ(weights, expected) << options.optimizer << " " << options.momentum << " "
                                 << options.amsgrad;
  }
}

// torch.optim's formulas in double, value by value.
TEST(Optimizer, AdamIsTheFormula) {
  StepOptions options;
  options.optimizer = "adam";
  options.lr = 0.03;
  options.amsgrad = true;
  const size_t size = 50;
  Optimizer optimizer;
  optimizer.start(options, size);
  std::vector<float> weights = normal(size, 1);
  std::vector<double> w(weights.begin(), weights.end()), m(size), v(size), largest(size);
  for (int t = 1; t <= 4; ++t) {
    const std::vector<float> gradients = normal(size, 10 + static_cast<uint64_t>(t));
    optimizer.step(weights, gradients, {{0, size}});
    for (size_t i = 0; i < size; ++i) {
      const double g = double{gradients[i]};
      m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
      v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
      largest[i] = std::max(largest[i], v[i]);
      w[i] -= options.lr / (1 - std::pow(options.beta1, t)) * m[i] /
              (std::sqrt(largest[i] / (1 - std::pow(options.beta2, t))) + options.epsilon);
      EXPECT_NEAR(weights[i], w[i], 2e-6);
    }
  }
}

}  // namespace
}  // namespace espalier::nn
