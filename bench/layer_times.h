#pragma once

#include <string>
#include <vector>

#include "bench/floors.h"
#include "espalier/base/clock.h"
#include "espalier/data/dataset.h"
#include "espalier/nn/graph_net.h"
#include "espalier/nn/optimizer.h"

namespace espalier::bench {

// A training step of plain SGD as the Trainer does it, taken apart: each layer's passes, what its
// update takes, and what is between. Reading the clock adds about .1 µs to each part.
class LayerTimes final : private nn::LayerObserver {
 public:
  // `set` outlives it and has at least `batch` samples.
  LayerTimes(nn::Graph graph, nn::Type type, const data::Dataset& set, int64_t batch);
  void step();

  struct Row {
    std::string layer;  // as its parameters are called, or what it does
    Part part;
    double seconds;  // median over the steps
    Work work;       // of the last step
  };
  std::vector<Row> rows() const;
  // Of the last step.
  Work work() const { return step_work(graph_, facts_); }
  // Medians: the whole step, and what is no layer's: gathering the batch, and the loss with the
  // beginning of the pass.
  double step_seconds() const;
  double gather_seconds() const;
  double loss_seconds() const;

 private:
  void begin(size_t index, nn::Pass pass) override;
  void parameters() override;
  void end(size_t index, const nn::Layer& layer) override;
  void gather();
  void update();
  std::vector<double>& times(size_t node, Part part) {
    return times_[node][static_cast<size_t>(part)];
  }

  nn::Graph graph_;
  nn::GraphNet net_;
  const data::Dataset& set_;
  int64_t batch_;
  std::vector<bool> fused_;
  std::vector<float> values_;
  std::vector<int64_t> tokens_, labels_;
  ParameterSet weights_, gradients_;
  nn::Optimizer optimizer_;
  std::vector<LayerFacts> facts_;
  // Of the pass that goes on.
  nn::Pass pass_ = nn::Pass::kForward;
  Stopwatch watch_;
  double data_seconds_ = 0;  // of a backward pass, up to parameters()
  bool split_ = false;
  double in_layers_ = 0;  // of the step
  uint32_t next_ = 0;
  std::vector<std::vector<std::vector<double>>> times_;  // by node and part
  std::vector<double> steps_, gathering_, losses_;
};

}  // namespace espalier::bench
