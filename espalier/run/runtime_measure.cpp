#include "espalier/run/runtime_measure.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/run/class_figures.h"

namespace espalier::run {

namespace {

std::vector<uint32_t> first_samples(size_t count) {
  std::vector<uint32_t> samples(count);
  std::iota(samples.begin(), samples.end(), uint32_t{0});
  return samples;
}

size_t eval_batch(const TrainedModel& model) {
  return std::min(static_cast<size_t>(model.config.run.eval_batch), model.data.test->size());
}

size_t logits_of(const TrainedModel& model, const train::Trainer& trainer) {
  return trainer.num_logits() > 0 ? trainer.num_logits()
                                  : static_cast<size_t>(model.spec.num_classes);
}

double quantile(std::vector<double> values, double q) {
  const auto rank = static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(rank),
                   values.end());
  return values[rank];
}

// Seconds of every repetition of one batch, variant by variant.
std::vector<std::vector<double>> time_batches(const TrainedModel& model,
                                              const std::vector<Variant>& variants, size_t batch) {
  constexpr size_t kWarmUp = 3, kMost = 300, kLeast = 10;
  constexpr double kBudgetSeconds = 3;  // of each variant
  const std::vector<uint32_t> samples = first_samples(batch);
  std::vector<std::vector<float>> logits(variants.size());
  for (size_t i = 0; i < variants.size(); ++i)
    logits[i].resize(batch * logits_of(model, *variants[i].trainer));
  std::vector<std::vector<double>> seconds(variants.size());
  Stopwatch all;
  for (size_t repetition = 0; repetition < kWarmUp + kMost; ++repetition) {
    if (repetition == kWarmUp) all.restart();
    for (size_t i = 0; i < variants.size(); ++i) {
      // Each variant goes first as often as the others.
      const size_t which = (i + repetition) % variants.size();
      const Stopwatch time;
      variants[which].trainer->predict(*model.data.test, samples, nullptr, Key(0), {},
                                       logits[which]);
      if (repetition >= kWarmUp) seconds[which].push_back(time.seconds());
    }
    if (repetition >= kWarmUp + kLeast &&
        all.seconds() > kBudgetSeconds * static_cast<double>(variants.size())) {
      break;
    }
  }
  return seconds;
}

uint64_t count_nonzero(const ParameterSet& weights) {
  uint64_t count = 0;
  for (const ParameterInfo& tensor : weights.layout().tensors()) {
    if (!is_trainable(tensor.role)) continue;
    for (const float value : weights.values(tensor)) count += value != 0 ? 1 : 0;
  }
  return count;
}

}  // namespace

Json measure(const TrainedModel& model, const std::vector<Variant>& variants) {
  Json found = Json::object();
  for (const Variant& variant : variants) {
    const train::EvalSums sums = evaluate_test(model, *variant.trainer);
    const auto count = static_cast<double>(sums.count);
    found[variant.name] = {
        {"accuracy", static_cast<double>(sums.correct) / count},
        {"loss", sums.loss / count},
        {"parameters", variant.weights->layout().num_trainable()},
        {"nonzero_parameters", count_nonzero(*variant.weights)},
        {"safetensors_bytes",
         train::write_weights(*variant.weights, variant.trainer->fixed(), {}).size()},
        {"macs_per_sample", variant.trainer->macs_per_sample()},
    };
    add_class_figures(sums.classes, "", found[variant.name]);
  }
  for (const bool alone : {true, false}) {
    const size_t batch = alone ? 1 : eval_batch(model);
    const auto seconds = time_batches(model, variants, batch);
    const std::string end = alone ? "seconds_per_sample_alone" : "seconds_per_sample_in_batch";
    for (size_t i = 0; i < variants.size(); ++i) {
      Json& figures = found[variants[i].name];
      figures[end] = quantile(seconds[i], 0.5) / static_cast<double>(batch);
      figures["p95_" + end] = quantile(seconds[i], 0.95) / static_cast<double>(batch);
    }
  }
  if (variants.size() == 2) add_ratio(found);
  return found;
}

void add_ratio(Json& variants) {
  ESPALIER_CHECK(variants.size() == 2);
  Json ratio = Json::object();
  const Json &first = variants.front(), &second = variants.back();
  for (const auto& [key, value] : first.items()) {
    if (!value.is_number() || key.ends_with("accuracy") || key == "loss" ||
        key == "num_never_found" || !second.contains(key)) {
      continue;
    }
    const double base = value.get<double>();
    if (base > 0) ratio[key] = second[key].get<double>() / base;
  }
  variants["ratio"] = std::move(ratio);
}

LogitDifference compare_logits(const TrainedModel& model, train::Trainer& first,
                               train::Trainer& second) {
  const std::vector<uint32_t> all = first_samples(std::min<size_t>(1000, model.data.test->size()));
  const size_t batch = eval_batch(model), classes = logits_of(model, first);
  std::vector<float> a, b;
  LogitDifference found;
  for (size_t begin = 0; begin < all.size(); begin += batch) {
    const auto samples = std::span(all).subspan(begin, std::min(batch, all.size() - begin));
    a.resize(samples.size() * classes);
    b.resize(a.size());
    first.predict(*model.data.test, samples, nullptr, Key(0), {}, a);
    second.predict(*model.data.test, samples, nullptr, Key(0), {}, b);
    for (size_t i = 0; i < a.size(); ++i) {
      const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
      // Not a number is no agreement.
      found.difference = difference >= 0 ? std::max(found.difference, difference)
                                         : std::numeric_limits<double>::infinity();
      found.largest = std::max(found.largest, std::abs(static_cast<double>(a[i])));
    }
  }
  return found;
}

}  // namespace espalier::run
