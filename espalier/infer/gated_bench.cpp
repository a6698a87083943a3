// Inference of gated models on one sample and one core: skipping what the gates close, against the
// same architecture without gates run densely by oneDNN with weights packed beforehand, by our own
// kernels, by the training engine and by libtorch. The gated models are trained for a few steps on
// made-up images first, so that their gates are not random ones. All take turns on the same
// samples; medians are compared.
//
//   gated_bench [--json] [--rounds N] [--steps N] [--only MODEL]
#include <algorithm>
#include <functional>

#include "bench/harness.h"
#include "espalier/base/clock.h"
#include "espalier/infer/gated_bench_dense.h"
#include "espalier/infer/gated_runtime.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/models.h"
#include "espalier/models/process.h"
#include "espalier/nn/gates.h"
#include "espalier/nn/graph_net.h"
#include "espalier/torch/torch_net.h"
#include "espalier/train/test_data.h"

namespace espalier::infer {

using namespace models;
using torch::make_torch_graph_net;
namespace {

struct Case {
  std::string model, gates;
  double ratio;
  std::vector<int64_t> shape;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"vgg11", "gated", 0.5, {3, 32, 32}},     {"vgg11", "gated", 0.7, {3, 32, 32}},
      {"vgg11", "fbs", 0.5, {3, 32, 32}},       {"resnet32", "gated", 0.62, {3, 32, 32}},
      {"resnet32", "gated", 0.5, {3, 32, 32}},  {"resnet20", "gated", 0.62, {3, 32, 32}},
      {"cnn-cifar", "gated", 0.5, {3, 32, 32}}, {"cnn", "gated", 0.5, {1, 28, 28}}};
  return all;
}

constexpr size_t kTurn = 8;      // samples that one contender runs at a time
constexpr size_t kSamples = 64;  // different ones

ModelOptions options_of(const Case& c, const std::string& gates) {
  ModelOptions options;
  options.name = c.model;
  options.gates = gates;
  if (gates != "none") options.gate_ratio = c.ratio;
  return options;
}

// Weights after a few steps.
ParameterSet trained(const ModelOptions& model, const data::Dataset& set, int64_t steps) {
  const auto trainer = make_trainer(model, spec_of(set), {});
  ParameterSet weights(trainer->layout());
  trainer->initialize(Key(1), weights);
  trainer->load(weights);
  StepOptions options;
  options.lr = 0.01;
  options.momentum = 0.9;
  options.clip_norm = 1;
  options.batch_size = 32;
  options.max_steps = steps;
  options.epochs = 1000;
  if (steps > 0) trainer->fit(set, first_samples(set.size()), options, {}, Key(2));
  trainer->store(weights);
  return weights;
}

struct Contender {
  std::string name;
  std::function<uint64_t(std::span<const float>, std::span<float>)> run;
  std::vector<double> seconds;
  uint64_t macs = 0;
};

void run_case(const Case& c, int64_t rounds, int64_t steps, bench::Table& table) {
  const data::Dataset set = block_images(c.shape, 640, 10);
  const ModelOptions gated = options_of(c, c.gates), plain = options_of(c, "none");
  const Graph graph = *build_graph(gated, spec_of(set)), dense = *build_graph(plain, spec_of(set));
  const ParameterSet weights = trained(gated, set, steps),
                     dense_weights = trained(plain, set, steps);

  const auto size = static_cast<size_t>(graph.input.size());
  std::vector<float> samples(kSamples * size), logits(10);
  Stream stream(Key(5));
  for (size_t i = 0; i < kSamples; ++i) {  // the images with noise, channels-last
    const auto pixels = static_cast<size_t>(graph.input.pixels()),
               channels = static_cast<size_t>(graph.input.channels);
    for (size_t p = 0; p < pixels; ++p) {
      for (size_t k = 0; k < channels; ++k) {
        const float raw = static_cast<float>(set.pixels[i * size + k * pixels + p]) / 255;
        samples[i * size + p * channels + k] =
            (raw - set.mean[k]) / set.stddev[k] + static_cast<float>(0.1 * stream.normal());
      }
    }
  }
  GatedNet skipping(graph, weights), ours(dense, dense_weights);
  DenseNet packed(dense, dense_weights);
  GraphNet engine(dense, Type::kFloat);
  const auto torch = make_torch_graph_net(dense, "cpu");
  const auto net_call = [&](Net& net) {
    return [&net, &dense_weights](std::span<const float> x, std::span<float> y) {
      net.predict({.size = 1, .values = x, .tokens = {}, .labels = {}}, dense_weights.values(), {},
                  y);
      return uint64_t{0};
    };
  };
  std::vector<Contender> all = {
      {"dense: oneDNN, packed", [&](auto x, auto y) { return packed.run(x, y), uint64_t{0}; }, {}},
      {"dense: our kernels",
       [&](auto x, auto y) { return ours.run(x, Arithmetic::kMasked, y); },
       {}},
      {"dense: training engine", net_call(engine), {}},
      {"dense: libtorch", net_call(*torch), {}},
      {"gated: masked",
       [&](auto x, auto y) { return skipping.run(x, Arithmetic::kMasked, y); },
       {}},
      {"gated: skipping",
       [&](auto x, auto y) { return skipping.run(x, Arithmetic::kSkipping, y); },
       {}}};
  std::vector<float> expected(10);
  packed.run(std::span(samples).first(size), expected);
  for (size_t i = 1; i < 4; ++i) {
    all[i].run(std::span(samples).first(size), logits);
    for (size_t k = 0; k < logits.size(); ++k) {
      if (std::abs(logits[k] - expected[k]) > 1e-4f * (1 + std::abs(expected[k])))
        fail("bench/gated", "the baselines differ: ", all[i].name);
    }
  }
  for (size_t round = 0; round <= static_cast<size_t>(rounds); ++round) {
    for (Contender& contender : all) {
      for (size_t i = 0; i < kTurn; ++i) {
        const size_t at = (round * kTurn + i) % kSamples;
        const Stopwatch watch;
        const uint64_t macs = contender.run(std::span(samples).subspan(at * size, size), logits);
        if (round == 0 || i == 0) continue;  // warm-up: the one before has emptied the caches
        contender.seconds.push_back(watch.seconds());
        contender.macs += macs;
      }
    }
  }
  double best = 1e9;
  for (const Contender& contender : all) {
    if (contender.name.starts_with("dense"))
      best = std::min(best, bench::quantile(contender.seconds, 0.5));
  }
  for (const Contender& contender : all) {
    const double median = bench::quantile(contender.seconds, 0.5);
    const double macs =
        static_cast<double>(contender.macs) / static_cast<double>(contender.seconds.size());
    std::string line =
        bench::text("%-10s %-6s %.2f  %-24s %9.1f us %9.1f us %6.2fx", c.model.c_str(),
                    c.gates.c_str(), c.ratio, contender.name.c_str(), 1e6 * median,
                    1e6 * bench::quantile(contender.seconds, 0.95), best / median);
    if (macs > 0)
      line += bench::text("  %6.2f M (%.3f)", 1e-6 * macs, macs / static_cast<double>(dense.macs));
    table.row({{"model", c.model},
               {"gates", c.gates},
               {"ratio", c.ratio},
               {"way", contender.name},
               {"median_seconds", median},
               {"p95_seconds", bench::quantile(contender.seconds, 0.95)},
               {"macs", macs},
               {"dense_macs", dense.macs},
               {"speedup", best / median}},
              line);
  }
}

}  // namespace
}  // namespace espalier::infer

int main(int argc, char** argv) {
  using namespace espalier;
  using namespace espalier::infer;
  bench::Arguments arguments(argc, argv);
  const bool json = arguments.flag("--json");
  const int64_t rounds = arguments.number("--rounds", 40),
                steps = arguments.number("--steps", 20, 0);
  const std::string only = arguments.text("--only");
  arguments.finish("gated_bench [--json] [--rounds N] [--steps N] [--only MODEL]");
  configure_process();
  bench::Table table(
      json, bench::text("%-10s %-6s %-5s %-24s %12s %12s %7s  %s", "model", "gates", "ratio", "way",
                        "median", "95 %", "speed", "MACs executed (of dense)"));
  for (const Case& c : cases()) {
    if (only.empty() || c.model == only) run_case(c, rounds, steps, table);
  }
  table.finish();
  return 0;
}
