#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/clock.h"
#include "espalier/infer/gated_runtime.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/models/models.h"
#include "espalier/nn/gates.h"
#include "espalier/nn/kernels.h"
#include "espalier/run/class_figures.h"
#include "espalier/run/runtimes.h"

// `espalier evaluate --runtime gated`: three forms of a model with gates, side by side.
// - dense: every channel kept (ratio 1). Time and multiplications are those of the architecture
//   without gates, by the same kernels.
// - masked: the model's ratio, everything computed and closed channels multiplied by 0.
// - gated: the model's ratio, closed channels left out.
// Accuracies of dense and masked are the training engine's over all test samples, that of gated is
// of the sample-by-sample runtime over all test samples. Times are of single samples on one core,
// taken in turns. Then, for some sizes of batch, which way the automatic choice goes.
namespace espalier::run {

namespace {

constexpr size_t kTimed = 512;       // samples that all forms are timed on
constexpr size_t kTurn = 8;          // of them one form runs at a time
constexpr size_t kRepetitions = 15;  // of a timed batch

// Test samples as nets read them: channels-last.
std::vector<float> read_samples(const data::Dataset& set, std::span<const uint32_t> samples) {
  std::vector<float> values(samples.size() * set.sample_size());
  data::gather(set, samples, nullptr, Key(0), values);
  if (set.kind != data::Kind::kFloat || set.sample_shape.size() != 3) return values;
  std::vector<float> turned(values.size());
  const auto channels = static_cast<size_t>(set.sample_shape[0]);
  nn::unflatten(values.data(), samples.size(), set.sample_size() / channels, channels,
                turned.data());
  return turned;
}

// Weights of the same net without gates. A normalization of mode "fbs" has no scale: 1.
ParameterSet without_gates(const ParameterSet& weights, const nn::Graph& plain) {
  ParameterSet out(plain.layout);
  nn::draw_parameters(plain.init, Key(0), out);
  for (const ParameterInfo& tensor : plain.layout->tensors()) {
    const ParameterInfo* from = weights.layout().find(tensor.name);
    if (from == nullptr) continue;
    const auto values = weights.values(*from);
    std::copy(values.begin(), values.end(), out.values(tensor).begin());
  }
  return out;
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::lround(q * static_cast<double>(values.size() - 1)))];
}

double accuracy(std::span<const float> logits, std::span<const int64_t> labels) {
  const size_t classes = logits.size() / labels.size();
  size_t correct = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto row = logits.subspan(i * classes, classes);
    correct += std::max_element(row.begin(), row.end()) - row.begin() == labels[i] ? 1 : 0;
  }
  return static_cast<double>(correct) / static_cast<double>(labels.size());
}

struct Form {
  std::vector<double> seconds;
  std::vector<double> macs;

  Json figures(std::span<const float> logits, std::span<const int64_t> labels) const {
    const double count = static_cast<double>(macs.size());
    Json out = {{"accuracy", accuracy(logits, labels)}};
    add_class_figures(train::count_classes(labels, logits), "", out);
    out["seconds_per_sample_alone"] = quantile(seconds, 0.5);
    out["p95_seconds_per_sample_alone"] = quantile(seconds, 0.95);
    out["macs_per_sample"] = std::accumulate(macs.begin(), macs.end(), 0.0) / count;
    out["median_macs_per_sample"] = quantile(macs, 0.5);
    out["p95_macs_per_sample"] = quantile(macs, 0.95);
    return out;
  }
};

class Evaluation {
 public:
  Evaluation(const TrainedModel& model, const nn::Graph& graph, const nn::Graph& plain)
      : model_(model),
        graph_(graph),
        set_(*model.data.test),
        weights_(read_weights(model, graph.layout)),
        gated_(graph, weights_),
        dense_(plain, without_gates(weights_, plain)),
        all_(set_.size()),
        labels_(set_.size()) {
    if (all_.empty()) fail("evaluate", "there are no test samples to evaluate on");
    std::iota(all_.begin(), all_.end(), 0U);
    data::gather_labels(set_, all_, labels_);
  }

  Json run() {
    run_gated();
    ParameterSet whole = weights_;
    nn::set_gate_ratio(whole, 1);
    const std::vector<float> dense_logits = engine_logits(whole),
                             masked_logits = engine_logits(weights_);
    float difference = 0, largest = 0;
    for (size_t i = 0; i < logits_.size(); ++i) {
      difference = std::max(difference, std::abs(logits_[i] - masked_logits[i]));
      largest = std::max(largest, std::abs(masked_logits[i]));
    }
    Json out = {
        {"model", model_.config.model.name},
        {"gates", model_.config.model.gates},
        {"ratio", nn::gate_ratio(weights_).value()},
        {"samples", all_.size()},
        {"timed_samples", std::min(all_.size(), kTimed)},
        {"dense",
         "all channels kept (ratio 1): its accuracy is of weights that were not trained so"},
        {"largest_logit", largest},
        {"max_logit_difference", difference}};
    add_batches(out);
    out["speedup"] = quantile(forms_[0].seconds, 0.5) / quantile(forms_[2].seconds, 0.5);
    out["variants"] = {{"dense", forms_[0].figures(dense_logits, labels_)},
                       {"masked", forms_[1].figures(masked_logits, labels_)},
                       {"gated", forms_[2].figures(logits_, labels_)}};
    return out;
  }

 private:
  // All samples by skipping; the first ones in turns by the other two forms as well.
  void run_gated() {
    const size_t classes = gated_.num_logits(), size = set_.sample_size();
    logits_.resize(all_.size() * classes);
    std::vector<float> other(classes);
    for (size_t begin = 0; begin < all_.size(); begin += kTurn) {
      const size_t count = std::min(kTurn, all_.size() - begin);
      const std::vector<float> values = read_samples(set_, std::span(all_).subspan(begin, count));
      const auto turn = [&](Form& form, auto&& call) {
        for (size_t i = 0; i < count; ++i) {
          const Stopwatch watch;
          const uint64_t macs = call(i, std::span(values).subspan(i * size, size));
          form.seconds.push_back(watch.seconds());
          form.macs.push_back(static_cast<double>(macs));
        }
      };
      using infer::Arithmetic;
      turn(forms_[2], [&](size_t i, std::span<const float> sample) {
        return gated_.run(sample, Arithmetic::kSkipping,
                          std::span(logits_).subspan((begin + i) * classes, classes));
      });
      if (begin >= kTimed) continue;
      turn(forms_[1], [&](size_t, std::span<const float> sample) {
        return gated_.run(sample, Arithmetic::kMasked, other);
      });
      turn(forms_[0], [&](size_t, std::span<const float> sample) {
        return dense_.run(sample, Arithmetic::kMasked, other);
      });
    }
  }

  std::vector<float> engine_logits(const ParameterSet& weights) {
    const auto trainer = make_trainer(model_);
    trainer->load(weights);
    const auto batch = static_cast<size_t>(model_.config.run.eval_batch);
    std::vector<float> logits(logits_.size());
    for (size_t begin = 0; begin < all_.size(); begin += batch) {
      const size_t count = std::min(batch, all_.size() - begin);
      trainer->predict(
          set_, std::span(all_).subspan(begin, count), nullptr, Key(0), {},
          std::span(logits).subspan(begin * gated_.num_logits(), count * gated_.num_logits()));
    }
    return logits;
  }

  // "batch_<size>": the way chosen, "batch_<size>_seconds_per_sample": for single samples, a
  // handful and as many as the run evaluated at a time.
  void add_batches(Json& out) {
    infer::GatedRuntime runtime(graph_, weights_);
    for (const size_t wanted :
         {size_t{1}, size_t{8}, static_cast<size_t>(model_.config.run.eval_batch)}) {
      const size_t count = std::min(wanted, all_.size());
      const std::vector<float> values = read_samples(set_, std::span(all_).first(count));
      std::vector<float> logits(count * runtime.num_logits());
      runtime.predict(values, logits, {});
      std::vector<double> seconds;
      for (size_t i = 0; i < kRepetitions; ++i) {
        const Stopwatch watch;
        runtime.predict(values, logits, {});
        seconds.push_back(watch.seconds() / static_cast<double>(count));
      }
      const bool skips =
          *runtime.way(static_cast<int64_t>(count)) == infer::GatedRuntime::Way::kSkipping;
      out[concat("batch_", count)] = skips ? "gated" : "masked";
      out[concat("batch_", count, "_seconds_per_sample")] = quantile(seconds, 0.5);
    }
  }

  const TrainedModel& model_;
  const nn::Graph& graph_;
  const data::Dataset& set_;
  ParameterSet weights_;
  infer::GatedNet gated_, dense_;
  std::vector<uint32_t> all_;
  std::vector<int64_t> labels_;
  std::vector<float> logits_;
  Form forms_[3];  // dense, masked, gated
};

}  // namespace

Json evaluate_gated(const TrainedModel& model) {
  const models::ModelOptions& options = model.config.model;
  if (options.gates == "none") {
    fail("evaluate", "model '", options.name,
         "' was trained without gates, so there is nothing to skip; evaluate it with --runtime "
         "dense, or train one with model.gates = \"gated\"");
  }
  const auto graph = models::build_graph(options, model.spec);
  if (graph == nullptr)
    fail("evaluate", "model '", options.name, "' has no gates; use --runtime dense");
  models::ModelOptions dense = options;
  const models::ModelOptions defaults;
  dense.gates = defaults.gates;
  dense.gate_ratio = defaults.gate_ratio;
  dense.gate_sigmoid = defaults.gate_sigmoid;
  dense.gate_l1 = defaults.gate_l1;
  dense.gate_init = defaults.gate_init;
  const auto plain = models::build_graph(dense, model.spec);
  return Evaluation(model, *graph, *plain).run();
}

}  // namespace espalier::run
