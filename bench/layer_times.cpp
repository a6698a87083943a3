#include "bench/layer_times.h"

#include <algorithm>

#include "bench/harness.h"

namespace espalier::bench {

using nn::Node;
using nn::Op;

namespace {

constexpr size_t kParts = static_cast<size_t>(Part::kUpdate) + 1;

std::string layer_name(const nn::Graph& graph, size_t index) {
  const Node& node = graph.nodes[index];
  if (node.weight >= 0) {
    const std::string& name = graph.layout->tensors()[static_cast<size_t>(node.weight)].name;
    const std::string layer = name.substr(0, name.rfind('.'));
    return node.op == Op::kLstm ? concat(layer, " ", index) : layer;  // several share a name
  }
  switch (node.op) {
    case Op::kMaxPool:
      return concat("max-pool ", index);
    case Op::kGlobalAverage:
      return concat("average ", index);
    case Op::kFlatten:
      return concat("flatten ", index);
    default:
      return concat("node ", index);
  }
}

double median_or_zero(const std::vector<double>& values) {
  return values.empty() ? 0 : median(values);
}

}  // namespace

LayerTimes::LayerTimes(nn::Graph graph, nn::Type type, const data::Dataset& set, int64_t batch)
    : graph_(std::move(graph)),
      net_(graph_, type),
      set_(set),
      batch_(batch),
      fused_(graph_.nodes.size(), false),
      weights_(graph_.layout),
      gradients_(graph_.layout),
      facts_(graph_.nodes.size()),
      times_(graph_.nodes.size(), std::vector<std::vector<double>>(kParts)) {
  const std::vector<size_t> fused = net_.fused_tensors();
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const int weight = graph_.nodes[i].weight;
    fused_[i] = weight >= 0 && std::ranges::count(fused, static_cast<size_t>(weight)) > 0;
  }
  net_.initialize(Key(2), weights_);
  nn::StepOptions options;
  options.lr = 0.01;
  optimizer_.start(options, weights_.values().size());
  net_.observe(this);
}

void LayerTimes::begin(size_t, nn::Pass pass) {
  pass_ = pass;
  split_ = false;
  watch_ = Stopwatch();
}

void LayerTimes::parameters() {
  data_seconds_ = watch_.seconds();
  split_ = true;
}

void LayerTimes::end(size_t index, const nn::Layer& layer) {
  const double seconds = watch_.seconds();
  in_layers_ += seconds;
  if (pass_ == nn::Pass::kForward) {
    const Node& node = graph_.nodes[index];
    const nn::Slots& slots = layer.slots;
    LayerFacts& facts = facts_[index];
    facts.in = net_.value_type(node.input);
    facts.out = net_.value_type(static_cast<int>(index));
    facts.batch = batch_;
    facts.forward_macs = layer.forward_macs();
    facts.backward_macs = 0;
    facts.has_dx = slots.dx != nn::kNoSlot;
    facts.in_place = facts.has_dx && slots.dx == slots.dy;
    facts.fused = fused_[index];
    const bool pooled =
        slots.pooled != nn::kNoSlot && nn::sparse_backward(node, graph_.nodes[index + 1]);
    facts.forward_products = layer.product_type(nn::Pass::kForward);
    facts.backward_products = layer.product_type(nn::Pass::kBackward);
    facts.dy_values =
        slots.dy == nn::kNoSlot
            ? 0
            : static_cast<uint64_t>(batch_ * (pooled ? graph_.nodes[index + 1] : node).out.size());
    times(index, Part::kForward).push_back(seconds);
    return;
  }
  facts_[index].backward_macs = layer.backward_macs();
  if (!split_) {
    times(index, Part::kBackward).push_back(seconds);
  } else if (facts_[index].has_dx) {
    times(index, Part::kData).push_back(data_seconds_);
    times(index, Part::kParameters).push_back(seconds - data_seconds_);
  } else {
    times(index, Part::kParameters).push_back(seconds);
  }
}

void LayerTimes::gather() {
  std::vector<uint32_t> samples(static_cast<size_t>(batch_));
  for (uint32_t& sample : samples) sample = next_++ % static_cast<uint32_t>(set_.size());
  labels_.resize(samples.size());
  data::gather_labels(set_, samples, labels_);
  if (graph_.tokens) {
    tokens_.resize(samples.size() * set_.sample_size());
    data::gather_tokens(set_, samples, tokens_);
  } else {
    values_.resize(samples.size() * set_.sample_size());
    data::gather(set_, samples, nullptr, Key(1), values_);
  }
}

void LayerTimes::update() {
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const Node& node = graph_.nodes[i];
    std::vector<nn::Segment> segments;
    for (const int tensor : {node.weight, node.bias, node.recurrent, node.recurrent_bias}) {
      if (tensor < 0 || (fused_[i] && (tensor == node.weight || tensor == node.recurrent)))
        continue;
      const ParameterInfo& info = graph_.layout->tensors()[static_cast<size_t>(tensor)];
      const auto at = static_cast<size_t>(info.offset);
      segments.push_back({at, at + static_cast<size_t>(info.size)});
    }
    if (segments.empty()) continue;
    const Stopwatch watch;
    optimizer_.step(weights_.values(), gradients_.values(), segments);
    times(i, Part::kUpdate).push_back(watch.seconds());
  }
}

void LayerTimes::step() {
  const Stopwatch whole;
  gather();
  const double gathered = whole.seconds();
  in_layers_ = 0;
  const nn::SgdUpdate sgd{0.01f, 1.0f};
  nn::Batch batch;
  batch.size = batch_;
  batch.values = values_;
  batch.tokens = tokens_;
  batch.labels = labels_;
  net_.train(batch, weights_.values(), gradients_.values(), &sgd);
  const double trained = whole.seconds();
  update();
  steps_.push_back(whole.seconds());
  gathering_.push_back(gathered);
  losses_.push_back(trained - gathered - in_layers_);
}

std::vector<LayerTimes::Row> LayerTimes::rows() const {
  std::vector<Row> rows;
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    for (size_t part = 0; part < kParts; ++part) {
      if (times_[i][part].empty()) continue;
      const auto which = static_cast<Part>(part);
      rows.push_back({layer_name(graph_, i), which, median(times_[i][part]),
                      layer_work(graph_.nodes[i], *graph_.layout, facts_[i], which)});
    }
  }
  return rows;
}

double LayerTimes::step_seconds() const { return median_or_zero(steps_); }
double LayerTimes::gather_seconds() const { return median_or_zero(gathering_); }
double LayerTimes::loss_seconds() const { return median_or_zero(losses_); }

}  // namespace espalier::bench
