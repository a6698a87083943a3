#include "espalier/infer/gated_runtime.h"

#include <algorithm>
#include <limits>

#include "espalier/base/clock.h"
#include "espalier/nn/gates.h"
#include "espalier/nn/graph_net.h"

namespace espalier::infer {
namespace {

constexpr int kTimedRuns = 3;

const Graph& with_gates(const Graph& graph) {
  if (!has_gates(*graph.layout)) {
    fail("train/gated",
         "this model has no gates, so there is nothing to skip; train one with model.gates = "
         "\"gated\" or \"fbs\", or evaluate this one with --runtime dense");
  }
  return graph;
}

}  // namespace

GatedRuntime::GatedRuntime(const Graph& graph, const ParameterSet& weights)
    : net_(with_gates(graph), weights),
      engine_(std::make_unique<GraphNet>(graph, Type::kFloat)),
      weights_(weights) {}

void GatedRuntime::predict_by(Way way, std::span<const float> samples, std::span<float> logits,
                              std::span<uint64_t> macs) {
  const auto size = static_cast<size_t>(net_.graph().input.size());
  const size_t count = samples.size() / size;
  ESPALIER_CHECK(samples.size() == count * size && logits.size() == count * num_logits() &&
                 (macs.empty() || macs.size() == count));
  if (way == Way::kSkipping) {
    for (size_t i = 0; i < count; ++i) {
      const uint64_t executed = net_.run(samples.subspan(i * size, size), Arithmetic::kSkipping,
                                         logits.subspan(i * num_logits(), num_logits()));
      if (!macs.empty()) macs[i] = executed;
    }
    return;
  }
  labels_.resize(count);
  const Batch batch{
      .size = static_cast<int64_t>(count), .values = samples, .tokens = {}, .labels = labels_};
  engine_->predict(batch, weights_.values(), {}, logits);
  std::fill(macs.begin(), macs.end(), net_.graph().macs);
}

void GatedRuntime::predict(std::span<const float> samples, std::span<float> logits,
                           std::span<uint64_t> macs) {
  const auto count = static_cast<int64_t>(samples.size()) / net_.graph().input.size();
  const auto found = ways_.find(count);
  if (found != ways_.end() || count == 0) {
    if (count > 0) predict_by(found->second, samples, logits, macs);
    return;
  }
  double best = std::numeric_limits<double>::infinity();
  Way chosen = Way::kSkipping;
  for (const Way way : {Way::kSkipping, Way::kWholeBatch}) {
    for (int run = 0; run <= kTimedRuns; ++run) {
      const Stopwatch watch;
      predict_by(way, samples, logits, macs);
      const double seconds = watch.seconds();
      if (run == 0 || seconds >= best) continue;  // the first brings everything into the caches
      best = seconds;
      chosen = way;
    }
  }
  ways_.emplace(count, chosen);
  if (chosen == Way::kSkipping) predict_by(chosen, samples, logits, macs);
}

const GatedRuntime::Way* GatedRuntime::way(int64_t count) const {
  const auto found = ways_.find(count);
  return found == ways_.end() ? nullptr : &found->second;
}

}  // namespace espalier::infer
