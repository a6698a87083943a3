#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/models/models.h"
#include "espalier/nn/graph_net.h"
#include "espalier/nn/net.h"

// Graphs of ten classes, and weights and batches to run them on, for the tests of this module.
namespace espalier::models {

inline DataSpec images(std::vector<int64_t> shape) {
  DataSpec data;
  data.sample_shape = std::move(shape);
  data.num_classes = 10;
  return data;
}

inline Graph graph_of(const ModelOptions& options, std::vector<int64_t> shape) {
  return std::move(*build_graph(options, images(std::move(shape))));
}

// ‖a − b‖ relative to ‖b‖.
inline double distance(std::span<const float> a, std::span<const float> b) {
  std::vector<float> difference(a.size());
  subtract(a, b, difference);
  return std::sqrt(squared_norm(difference) / std::max(1e-12, squared_norm(b)));
}

// Where the gradients of two engines are not equal up to rounding; empty: nowhere. Relative to the
// tensor, but a gradient that is zero up to rounding (a shift before a normalization) is measured
// by the whole.
inline std::string gradient_difference(const ParameterSet& ours, const ParameterSet& theirs,
                                       double allowed = 2e-4) {
  const double whole = std::sqrt(squared_norm(theirs.values()));
  std::string found;
  for (const ParameterInfo& tensor : theirs.layout().tensors()) {
    const double scale = std::max(std::sqrt(squared_norm(theirs.values(tensor))), 1e-3 * whole);
    std::vector<float> difference(static_cast<size_t>(tensor.size));
    subtract(ours.values(tensor), theirs.values(tensor), difference);
    const double error = std::sqrt(squared_norm(difference)) / scale;
    if (!(error < allowed)) found += concat(tensor.name, " by ", error, " ");
  }
  return found;
}
inline void expect_equal_gradients(const ParameterSet& ours, const ParameterSet& theirs) {
  EXPECT_EQ(gradient_difference(ours, theirs), "");
}

// What this processor computes in.
inline std::vector<Type> types() {
  return computes_bf16() ? std::vector{Type::kFloat, Type::kBf16} : std::vector{Type::kFloat};
}

// What is added to every bias, scale and statistic: numbers from `low` on, over `width`.
struct Shift {
  double low = 0, width = 0.2;
};

// A batch of noise and weights with nothing degenerate: biases, scales and statistics away from 0
// and 1. `shift` of width 0: as a model starts.
struct Problem {
  AlignedVector<float> values;
  std::vector<int64_t> labels;
  Batch batch;
  ParameterSet weights;

  Problem(const Graph& graph, int64_t size, Shift shift = {}, uint64_t seed = 4)
      : weights(graph.layout) {
    draw_parameters(graph.init, Key(3), weights);
    Stream stream{Key(seed)};
    for (const ParameterInfo& tensor : graph.layout->tensors()) {
      if (shift.width == 0 || tensor.role == Role::kCounter || tensor.role == Role::kWeight)
        continue;
      for (float& value : weights.values(tensor))
        value += static_cast<float>(shift.width * stream.uniform() + shift.low);
    }
    for (int64_t i = 0; i < size * graph.input.size(); ++i)
      values.push_back(static_cast<float>(stream.normal()));
    for (int64_t i = 0; i < size; ++i) labels.push_back(static_cast<int64_t>(stream.below(10)));
    batch = {.size = size, .values = values, .tokens = {}, .labels = labels};
  }
  Problem(const Problem&) = delete;  // the batch views the values
  Problem& operator=(const Problem&) = delete;

  std::span<const float> sample(const Graph& graph, int64_t i) const {
    return std::span(values).subspan(static_cast<size_t>(i * graph.input.size()),
                                     static_cast<size_t>(graph.input.size()));
  }
};

}  // namespace espalier::models
