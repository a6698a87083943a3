#include "espalier/infer/gated_runtime_net.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/simd.h"

namespace espalier::infer {
namespace {

void all_channels(size_t count, std::vector<uint32_t>& out) {
  out.resize(count);
  std::iota(out.begin(), out.end(), 0U);
}

// The channels with the `count` largest values, of equal ones the first; only values above 0.
void largest(const std::vector<float>& values, size_t count, std::vector<float>& ranks,
             std::vector<uint32_t>& out) {
  out.clear();
  float bound = 0;
  size_t equal = 0;  // how many of the bound's value survive
  if (count < values.size()) {
    ranks = values;
    std::nth_element(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(count) - 1,
                     ranks.end(), std::greater<>());
    bound = ranks[count - 1];
    equal = count - static_cast<size_t>(std::count_if(ranks.begin(), ranks.end(),
                                                      [&](float v) { return v > bound; }));
  }
  for (size_t c = 0; c < values.size(); ++c) {
    if (values[c] > bound) {
      out.push_back(static_cast<uint32_t>(c));
    } else if (bound > 0 && values[c] == bound && equal > 0) {
      --equal;
      out.push_back(static_cast<uint32_t>(c));
    }
  }
}

ESPALIER_KERNEL void max_pool_plane(const float* x, size_t width, size_t window, size_t out_height,
                                    size_t out_width, float* y) {
  for (size_t row = 0; row < out_height; ++row, y += out_width) {
    const float* from = x + row * window * width;
    if (window == 2) {
      for (size_t i = 0; i < out_width; ++i) {
        const float a = std::max(from[2 * i], from[2 * i + 1]),
                    b = std::max(from[width + 2 * i], from[width + 2 * i + 1]);
        y[i] = std::max(a, b);
      }
      continue;
    }
    for (size_t i = 0; i < out_width; ++i) {
      float best = from[i * window];
      for (size_t k = 0; k < window * window; ++k)
        best = std::max(best, from[k / window * width + i * window + k % window]);
      y[i] = best;
    }
  }
}

ESPALIER_KERNEL void affine_plane(const float* x, const float* residual, float scale, float shift,
                                  bool relu, size_t pixels, float* y) {
  for (size_t p = 0; p < pixels; ++p) {
    float value = scale * x[p] + shift;
    if (residual != nullptr) value += residual[p];
    y[p] = relu ? std::max(value, 0.0f) : value;
  }
}

ESPALIER_KERNEL void pass_plane(const float* x, bool relu, size_t pixels, float* y) {
  for (size_t p = 0; p < pixels; ++p) y[p] = relu ? std::max(x[p], 0.0f) : x[p];
}

}  // namespace

uint64_t GatedNet::run(std::span<const float> sample, Arithmetic arithmetic,
                       std::span<float> logits) {
  ESPALIER_CHECK(sample.size() == static_cast<size_t>(graph_.input.size()) &&
                 logits.size() == num_logits());
  read_sample(sample);
  uint64_t macs = 0;
  for (Step& step : steps_) {
    switch (step.op) {
      case Op::kGate:
        macs += run_gate(step, arithmetic);
        break;
      case Op::kConv:
        macs += run_conv(step, arithmetic);
        break;
      case Op::kBatchNorm:
      case Op::kGroupNorm:
        run_norm(step, arithmetic);
        break;
      case Op::kMaxPool:
        run_pool(step);
        break;
      case Op::kLinear:
        macs += run_linear(step);
        break;
      case Op::kGlobalAverage:
      case Op::kFlatten:
      case Op::kScale:
        run_vector(step);
        break;
      case Op::kEmbedding:
      case Op::kLstm:
        ESPALIER_CHECK(false, "nets with gates read images");
        break;
    }
  }
  const Value& last = value(static_cast<int>(graph_.nodes.size()) - 1);
  std::copy_n(last.data, logits.size(), logits.begin());
  return macs;
}

void GatedNet::read_sample(std::span<const float> sample) {
  Value& v = value(kGraphInput);
  for (size_t c = 0; c < v.channels; ++c) {
    float* plane = v.data + c * v.plane();
    for (size_t p = 0; p < v.pixels; ++p) plane[p] = sample[p * v.channels + c];
  }
  all_channels(v.channels, v.kept);
}

void GatedNet::complete(Value& v) {
  if (v.kept.size() == v.channels) return;
  size_t next = 0;
  for (size_t c = 0; c < v.channels; ++c) {
    if (next < v.kept.size() && v.kept[next] == c) {
      ++next;
    } else {
      std::fill_n(v.data + c * v.plane(), v.pixels, 0.0f);
    }
  }
  all_channels(v.channels, v.kept);
}

uint64_t GatedNet::run_gate(const Step& step, Arithmetic arithmetic) {
  Gate& gate = gates_.at(step.node);
  Value& x = value(step.input);
  if (arithmetic == Arithmetic::kMasked) complete(x);
  const bool sigmoid = node(step.node).sigmoid;
  gate.inputs.clear();
  for (const uint32_t c : x.kept) {
    const float sum = plane_sum(x.data + c * x.plane(), x.pixels),
                mean = sum / static_cast<float>(x.pixels);
    gate.means[c] = sigmoid ? 1 / (1 + std::exp(-mean)) - 0.5f : mean;
    // Behind a ReLU a sum of 0 is that of a channel of zeros.
    if (sum != 0 || !x.nonnegative || arithmetic == Arithmetic::kMasked) gate.inputs.push_back(c);
  }
  sparse_columns(gate.columns, gate.values.size(), gate.bias.data(), gate.inputs, gate.means.data(),
                 gate.values.data());
  for (float& value : gate.values) value = value > 0 ? value : 0;
  largest(gate.values, gate.survivors, ranks_, gate.kept);
  return gate.inputs.size() * gate.values.size();
}

void GatedNet::scale_channels(Step& step, Arithmetic arithmetic) {
  const Gate& gate = gates_.at(step.gate);
  step.now_scale.resize(step.scale.size());
  step.now_shift.resize(step.scale.size());
  if (arithmetic == Arithmetic::kMasked) {
    std::fill(step.now_scale.begin(), step.now_scale.end(), 0.0f);
    std::fill(step.now_shift.begin(), step.now_shift.end(), 0.0f);
  }
  for (const uint32_t c : gate.kept) {
    step.now_scale[c] = gate.values[c] * step.scale[c];
    step.now_shift[c] = gate.values[c] * step.shift[c] + (step.late.empty() ? 0 : step.late[c]);
  }
}

void GatedNet::pass_residual(const Step& step, std::span<const uint32_t> computed) {
  const Value& residual = value(step.residual);
  Value& y = value(step.target);
  size_t next = 0;
  for (size_t c = 0; c < y.channels; ++c) {
    if (next < computed.size() && computed[next] == c) {
      ++next;
    } else {
      pass_plane(residual.data + c * y.plane(), step.relu, y.pixels, y.data + c * y.plane());
    }
  }
}

uint64_t GatedNet::run_conv(Step& step, Arithmetic arithmetic) {
  Value &x = value(step.input), &y = value(step.target);
  const bool masked = arithmetic == Arithmetic::kMasked;
  if (masked) complete(x);
  const Gate* gate = step.gate == kNone ? nullptr : &gates_.at(step.gate);
  const std::vector<uint32_t>& inputs = gate == nullptr ? x.kept : gate->inputs;
  step.plan->unfold(x.data, inputs, step.unfolded);
  if (gate == nullptr || masked) {
    all_channels(y.channels, step.outputs);
  } else if (step.group == 1) {
    step.outputs = gate->kept;
  } else {
    step.outputs.clear();
    for (const uint32_t c : gate->kept) {
      const auto first = static_cast<uint32_t>(c / step.group * step.group);
      if (!step.outputs.empty() && step.outputs.back() >= first) continue;
      for (uint32_t i = 0; i < step.group; ++i) step.outputs.push_back(first + i);
    }
  }
  const bool scaled = gate != nullptr && step.scaled;
  if (scaled) scale_channels(step, arithmetic);
  SparseEpilogue epilogue;
  epilogue.scale = scaled ? step.now_scale.data() : step.scale.data();
  epilogue.shift = scaled ? step.now_shift.data() : step.shift.data();
  epilogue.relu = step.relu;
  if (step.residual != kNone) {
    Value& residual = value(step.residual);
    complete(residual);
    epilogue.residual = residual.data;
  }
  sparse_conv(*step.plan, step.weights, inputs, step.outputs, step.unfolded, epilogue, y.data);
  y.nonnegative = step.relu;
  y.kept = step.outputs;
  if (step.residual != kNone) {
    pass_residual(step, step.outputs);
    all_channels(y.channels, y.kept);
  }
  const SparseShape& shape = step.plan->shape();
  return step.outputs.size() * inputs.size() * shape.taps() * shape.pixels();
}

// A normalization that could not become part of a convolution: by groups of channels.
void GatedNet::run_norm(Step& step, Arithmetic arithmetic) {
  Value &x = value(step.input), &y = value(step.target);
  if (step.gate == kNone || arithmetic == Arithmetic::kMasked) complete(x);
  const float* residual = nullptr;
  if (step.residual != kNone) {
    complete(value(step.residual));
    residual = value(step.residual).data;
  }
  if (step.gate == kNone) {
    step.now_scale = step.scale;
    step.now_shift = step.shift;
  } else {
    scale_channels(step, arithmetic);
  }
  const bool skipping = step.gate != kNone && arithmetic == Arithmetic::kSkipping;
  y.kept = skipping ? gates_.at(step.gate).kept : x.kept;
  const size_t pixels = x.pixels, plane = x.plane();
  size_t group = y.channels;  // none yet
  double mean = 0, slope = 1;
  for (const uint32_t c : y.kept) {
    if (step.op == Op::kGroupNorm && c / step.group != group) {
      group = c / step.group;
      const double count = static_cast<double>(step.group * pixels);
      double sum = 0, squares = 0;
      for (size_t i = 0; i < step.group; ++i)
        sum += static_cast<double>(plane_sum(x.data + (group * step.group + i) * plane, pixels));
      mean = sum / count;
      for (size_t i = 0; i < step.group; ++i) {
        const float* from = x.data + (group * step.group + i) * plane;
        for (size_t p = 0; p < pixels; ++p) {
          const double difference = static_cast<double>(from[p]) - mean;
          squares += difference * difference;
        }
      }
      slope = 1 / std::sqrt(squares / count + static_cast<double>(kNormEpsilon));
    }
    const double scale = static_cast<double>(step.now_scale[c]) * slope;
    const double shift = static_cast<double>(step.now_shift[c]) - scale * mean;
    affine_plane(x.data + c * plane, residual == nullptr ? nullptr : residual + c * plane,
                 static_cast<float>(scale), static_cast<float>(shift), step.relu, pixels,
                 y.data + c * plane);
  }
  y.nonnegative = step.relu;
  if (residual != nullptr) {
    pass_residual(step, y.kept);
    all_channels(y.channels, y.kept);
  }
}

void GatedNet::run_pool(const Step& step) {
  const Value& x = value(step.input);
  Value& y = value(step.target);
  const Node& n = node(step.node);
  for (const uint32_t c : x.kept) {
    max_pool_plane(x.data + c * x.plane(), static_cast<size_t>(n.in.width),
                   static_cast<size_t>(n.kernel), static_cast<size_t>(n.out.height),
                   static_cast<size_t>(n.out.width), y.data + c * y.plane());
  }
  y.kept = x.kept;
  y.nonnegative = x.nonnegative;
}

// Planes to a vector: the mean of each, or all pixels.
void GatedNet::run_vector(const Step& step) {
  Value &x = value(step.input), &y = value(step.target);
  complete(x);
  const bool average = step.op == Op::kGlobalAverage;
  for (size_t c = 0; c < x.channels; ++c) {
    const float* from = x.data + c * x.plane();
    if (average) {
      y.data[c] = plane_sum(from, x.pixels) / static_cast<float>(x.pixels);
    } else {
      std::copy_n(from, x.pixels, y.data + c * x.pixels);
    }
  }
  all_channels(y.channels, y.kept);
}

uint64_t GatedNet::run_linear(const Step& step) {
  const Value& x = value(step.input);
  Value& y = value(step.target);
  const SparseLinear shape{y.channels, static_cast<size_t>(node(step.node).in.size()), x.pixels,
                           x.plane(), step.relu};
  sparse_linear(shape, step.weights, step.shift.data(), x.kept, x.data, y.data);
  all_channels(y.channels, y.kept);
  return y.channels * x.kept.size() * x.pixels;
}

}  // namespace espalier::infer
