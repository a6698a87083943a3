#include "espalier/nn/optimizer.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/simd.h"

namespace espalier::nn {
namespace {

ESPALIER_KERNEL void sgd_step(float* w, const float* g, size_t size, float lr, float decay) {
  for (size_t i = 0; i < size; ++i) w[i] -= lr * (g[i] + decay * w[i]);
}

ESPALIER_KERNEL void momentum_step(float* w, const float* g, float* v, size_t size, float lr,
                                   float decay, float momentum, bool nesterov) {
  if (nesterov) {
    for (size_t i = 0; i < size; ++i) {
      const float d = g[i] + decay * w[i];
      v[i] = momentum * v[i] + d;
      w[i] -= lr * (d + momentum * v[i]);
    }
  } else {
    for (size_t i = 0; i < size; ++i) {
      v[i] = momentum * v[i] + (g[i] + decay * w[i]);
      w[i] -= lr * v[i];
    }
  }
}

struct AdamStep {
  float beta1, rest1, beta2, rest2, epsilon, rate, root, decay, keep;
};

// `largest` is read and written only when `amsgrad`.
ESPALIER_KERNEL void adam_step(float* w, const float* g, float* m, float* v, float* largest,
                               size_t size, const AdamStep& s, bool amsgrad) {
  if (amsgrad) {
    for (size_t i = 0; i < size; ++i) {
      const float kept = w[i] * s.keep, d = g[i] + s.decay * w[i];
      m[i] = s.beta1 * m[i] + s.rest1 * d;
      v[i] = s.beta2 * v[i] + s.rest2 * d * d;
      largest[i] = v[i] > largest[i] ? v[i] : largest[i];
      w[i] = kept - s.rate * m[i] / (std::sqrt(largest[i]) / s.root + s.epsilon);
    }
  } else {
    for (size_t i = 0; i < size; ++i) {
      const float kept = w[i] * s.keep, d = g[i] + s.decay * w[i];
      m[i] = s.beta1 * m[i] + s.rest1 * d;
      v[i] = s.beta2 * v[i] + s.rest2 * d * d;
      w[i] = kept - s.rate * m[i] / (std::sqrt(v[i]) / s.root + s.epsilon);
    }
  }
}

// Eight partial sums per block, blocks in double: the same at every call, whatever the vector
// width.
ESPALIER_KERNEL double sum_of_squares(const float* x, size_t size) {
  constexpr size_t kBlock = 1024;
  double total = 0;
  for (size_t begin = 0; begin < size; begin += kBlock) {
    float lanes[16] = {};
    const size_t end = std::min(size, begin + kBlock);
    size_t i = begin;
    for (; i + 16 <= end; i += 16) {
      for (size_t j = 0; j < 16; ++j) lanes[j] += x[i + j] * x[i + j];
    }
    for (; i < end; ++i) lanes[0] += x[i] * x[i];
    for (const float lane : lanes) total += static_cast<double>(lane);
  }
  return total;
}

ESPALIER_KERNEL void scale(float* x, size_t size, float factor) {
  for (size_t i = 0; i < size; ++i) x[i] *= factor;
}

}  // namespace

void Optimizer::start(const StepOptions& options, size_t size, OptimizerState* state) {
  options_ = options;
  state_ = state == nullptr ? &own_ : state;
  const bool goes_on = state != nullptr && state->steps > 0;
  if (!goes_on) state_->steps = 0;
  const bool adaptive = options.optimizer != "sgd";
  const auto prepare = [&](AlignedVector<float>& buffer, bool used) {
    const size_t expected = used ? size : 0;
    if (!goes_on) buffer.assign(expected, 0.0f);
    if (buffer.size() != expected) {
      fail("train/optimizer", "the state after ", state->steps, " steps has a buffer of ",
           buffer.size(), " values where ", options.optimizer, " expects ", expected,
           "; do not change the model or train.optimizer, momentum and amsgrad within a run");
    }
  };
  prepare(state_->first, adaptive || options.momentum > 0);
  prepare(state_->second, adaptive);
  prepare(state_->largest, adaptive && options.amsgrad);
}

uint64_t Optimizer::state_bytes(const StepOptions& options, size_t size) {
  const bool adaptive = options.optimizer != "sgd";
  const uint64_t buffers = adaptive ? (options.amsgrad ? 3 : 2) : (options.momentum > 0 ? 1 : 0);
  return buffers * size * sizeof(float);
}

void Optimizer::step(std::span<float> weights, std::span<const float> gradients,
                     const std::vector<Segment>& segments) {
  ++state_->steps;
  const auto lr = static_cast<float>(options_.lr);
  const auto decay = static_cast<float>(options_.weight_decay);
  const bool adaptive = options_.optimizer != "sgd";
  AdamStep adam{};
  if (adaptive) {
    const bool decoupled = options_.optimizer == "adamw";
    const auto t = static_cast<double>(state_->steps);
    adam = {.beta1 = static_cast<float>(options_.beta1),
            .rest1 = static_cast<float>(1 - options_.beta1),
            .beta2 = static_cast<float>(options_.beta2),
            .rest2 = static_cast<float>(1 - options_.beta2),
            .epsilon = static_cast<float>(options_.epsilon),
            .rate = static_cast<float>(options_.lr / (1 - std::pow(options_.beta1, t))),
            .root = static_cast<float>(std::sqrt(1 - std::pow(options_.beta2, t))),
            .decay = decoupled ? 0.0f : decay,
            .keep = decoupled ? static_cast<float>(1 - options_.lr * options_.weight_decay) : 1.0f};
  }
  for (const Segment& part : segments) {
    float* w = weights.data() + part.begin;
    const float* g = gradients.data() + part.begin;
    const size_t size = part.end - part.begin;
    if (adaptive) {
      float* largest = options_.amsgrad ? state_->largest.data() + part.begin : nullptr;
      adam_step(w, g, state_->first.data() + part.begin, state_->second.data() + part.begin,
                largest, size, adam, options_.amsgrad);
    } else if (options_.momentum > 0) {
      momentum_step(w, g, state_->first.data() + part.begin, size, lr, decay,
                    static_cast<float>(options_.momentum), options_.nesterov);
    } else {
      sgd_step(w, g, size, lr, decay);
    }
  }
}

void clip_norm(std::span<float> gradients, const std::vector<Segment>& segments, double limit) {
  double squares = 0;
  for (const Segment& part : segments)
    squares += sum_of_squares(gradients.data() + part.begin, part.end - part.begin);
  const double factor = limit / (std::sqrt(squares) + 1e-6);
  if (factor >= 1) return;
  for (const Segment& part : segments)
    scale(gradients.data() + part.begin, part.end - part.begin, static_cast<float>(factor));
}

}  // namespace espalier::nn
