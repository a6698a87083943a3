#include "espalier/run/runtimes.h"

#include <algorithm>
#include <filesystem>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/report/run_folder.h"
#include "espalier/run/model_checks.h"
#include "espalier/train/evaluation.h"

namespace espalier::run {

// In files of their own, runtime_<name>.cpp.
Json evaluate_dense(const TrainedModel& model);
Json evaluate_pruned(const TrainedModel& model);
Json evaluate_gated(const TrainedModel& model);

const std::vector<Runtime>& runtimes() {
  static const std::vector<Runtime> rows = {
      {"dense", "the model as it was trained (default)", evaluate_dense},
      {"pruned", "without the units that do nothing, beside the dense one", evaluate_pruned},
      {"gated", "a model with gates, sample by sample: dense, masked and skipping", evaluate_gated},
  };
  return rows;
}

const Runtime& find_runtime(const std::string& name) {
  std::vector<std::string> known;
  for (const Runtime& row : runtimes()) {
    if (row.name == name) return row;
    known.push_back(row.name);
  }
  fail("evaluate", unknown_name_message("runtime", name, known));
}

TrainedModel open_model(const std::string& command, const ModelArguments& arguments) {
  const bool is_run = report::RunFolder::is_run(arguments.target);
  if (!is_run && arguments.config.empty()) {
    fail(command, "expected a run folder, or a model file with --config CONFIG.toml, got ",
         arguments.target);
  }
  std::filesystem::path model = arguments.target, config_path = arguments.config;
  if (is_run) {
    const auto folder = report::RunFolder::open(arguments.target);
    model = folder.model_path();
    config_path = arguments.config.empty() ? folder.config_path() : config_path;
  }
  Json tree = read_toml_file(config_path);
  for (const std::string& assignment : arguments.assignments) set_config_value(tree, assignment);
  run::RunConfig config = run::read_run_config(tree);
  data::DataSource data = data::load_dataset(
      config.data, Key(static_cast<uint64_t>(config.run.seed)).child(Purpose::kData));
  models::configure_thread();
  const train::DataSpec spec = train::spec_of(*data.train);
  return {std::move(config), std::move(data), spec, SafetensorsFile::read(model)};
}

std::unique_ptr<train::Trainer> make_trainer(const TrainedModel& model) {
  auto trainer = models::make_trainer(model.config.model, model.spec, model.config.train.hardware);
  check_output(model.config, *trainer);
  return trainer;
}

namespace {

ParameterSet read(const TrainedModel& model, const train::FixedTensors& fixed,
                  const std::shared_ptr<const ParameterLayout>& layout) {
  if (make_strategy(model.config)->capabilities().own_model != nullptr) {
    fail("evaluate/model", "the model of strategy '", model.config.strategy.value("name", ""),
         "' consists of parts that work together, which only `espalier evaluate --runtime dense` "
         "can run");
  }
  ParameterSet weights(layout);
  train::read_weights(model.file, fixed, weights);
  return weights;
}

}  // namespace

ParameterSet read_weights(const TrainedModel& model, const train::Trainer& trainer) {
  return read(model, trainer.fixed(), trainer.layout());
}

ParameterSet read_weights(const TrainedModel& model,
                          const std::shared_ptr<const ParameterLayout>& layout) {
  return read(model, {}, layout);
}

train::EvalSums evaluate_test(const TrainedModel& model, train::Trainer& trainer) {
  const data::Dataset& test = *model.data.test;
  const train::EvalSums sums = train::evaluate(trainer, test, train::all_samples(test.size()),
                                               static_cast<size_t>(model.config.run.eval_batch));
  if (sums.count == 0) fail("evaluate", "there are no test samples to evaluate on");
  return sums;
}

}  // namespace espalier::run
