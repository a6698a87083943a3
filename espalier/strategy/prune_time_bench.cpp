// The time model of PruneFL (Jiang et al. 2022) on this machine: seconds of a training step as
// a·(multiply-accumulates) + b·(weights), fitted to steps of nets that differ in both.
//   build/release/espalier/strategy/prune_time_bench
#include <cstdio>
#include <numeric>
#include <vector>

#include "bench/harness.h"
#include "espalier/base/clock.h"
#include "espalier/data/load.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/models/process.h"
#include "espalier/train/trainer.h"

namespace {

struct Row {
  double macs, weights, seconds;
};

Row measure(const espalier::models::ModelOptions& model, const espalier::data::Dataset& dataset) {
  using namespace espalier;
  const auto trainer = models::make_trainer(model, train::spec_of(dataset), {});
  ParameterSet weights;
  trainer->initialize(Key(1), weights);
  trainer->load(weights);
  train::StepOptions options;
  options.batch_size = 32;
  options.momentum = 0.9;
  options.lr = 1e-3;
  options.max_steps = 20;
  std::vector<uint32_t> samples(640);
  std::iota(samples.begin(), samples.end(), 0u);
  std::vector<double> times;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const double started = thread_cpu_seconds();
    trainer->fit(dataset, samples, options, {}, Key(2));
    times.push_back((thread_cpu_seconds() - started) / 20);
  }
  return {3.0 * 32 * static_cast<double>(trainer->macs_per_sample()),
          static_cast<double>(trainer->layout()->num_trainable()), bench::median(times)};
}

}  // namespace

int main() {
  using namespace espalier;
  models::configure_process();
  models::configure_thread();
  data::DataOptions options;
  options.name = "synthetic";
  options.synthetic_train_samples = 640;
  options.synthetic_test_samples = 10;
  const data::DataSource data = data::load_dataset(options, Key(1));
  std::vector<Row> rows;
  std::printf("%-22s %12s %12s %12s\n", "model", "MMAC/step", "weights", "ms/step");
  const auto add = [&](const std::string& name, const models::ModelOptions& model) {
    rows.push_back(measure(model, *data.train));
    std::printf("%-22s %12.1f %12.0f %12.3f\n", name.c_str(), rows.back().macs / 1e6,
                rows.back().weights, rows.back().seconds * 1e3);
  };
  for (const double width : {0.25, 0.5, 0.75, 1.0}) {
    models::ModelOptions model;
    model.width = width;
    add("cnn, width " + std::to_string(width).substr(0, 4), model);
  }
  for (const int64_t hidden : {256, 1024, 2048}) {
    models::ModelOptions model;
    model.name = "mlp";
    model.hidden = {hidden, hidden};
    add("mlp, 2 x " + std::to_string(hidden), model);
  }
  // Least squares of relative errors, so that small nets count as much as large ones.
  double mm = 0, mw = 0, ww = 0, m = 0, w = 0;
  for (const Row& row : rows) {
    const double x = row.macs / row.seconds, y = row.weights / row.seconds;
    mm += x * x;
    mw += x * y;
    ww += y * y;
    m += x;
    w += y;
  }
  const double determinant = mm * ww - mw * mw;
  const double per_mac = (m * ww - w * mw) / determinant;
  const double per_weight = (w * mm - m * mw) / determinant;
  std::printf("seconds_per_mac = %.2g, seconds_per_value = %.2g\n", per_mac, per_weight);
  for (const Row& row : rows) {
    std::printf("  predicted %.3f ms, measured %.3f ms\n",
                1e3 * (per_mac * row.macs + per_weight * row.weights), 1e3 * row.seconds);
  }
}
