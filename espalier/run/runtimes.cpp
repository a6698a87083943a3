#include "espalier/run/runtimes.h"

#include <algorithm>
#include <filesystem>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/report/run_folder.h"
#include "espalier/run/model_checks.h"
#include "espalier/run/sources.h"
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

namespace {

// The model's own samples and those that it meets now must be of one kind.
void require_fit(const data::Dataset& like, const data::Dataset& test, const std::string& root) {
  const std::string where = root.empty() ? "data" : root;
  if (test.kind != like.kind || test.sample_shape != like.sample_shape) {
    fail(where, "the model was made for samples of shape ", shape_text(like.sample_shape),
         ", but these have shape ", shape_text(test.sample_shape));
  }
  const auto most = *std::max_element(test.labels.begin(), test.labels.end());
  if (most >= like.num_classes) {
    fail(where, "the model knows the classes 0 to ", like.num_classes - 1,
         ", but the test labels go up to ", most);
  }
}

}  // namespace

TrainedModel open_model(const std::string& command, const ModelArguments& arguments) {
  const bool is_run = report::RunFolder::is_run(arguments.target);
  if (!is_run && arguments.config.empty()) {
    fail(command, "expected a run folder, or a model file with --config CONFIG.toml, got ",
         arguments.target);
  }
  std::filesystem::path path = arguments.target, config_path = arguments.config;
  std::optional<report::RunFolder> folder;
  if (is_run) {
    folder = report::RunFolder::open(arguments.target);
    path = folder->model_path();
    if (config_path.empty()) config_path = folder->config_path();
    if (!std::filesystem::exists(path)) {
      fail(command, "the run in ", folder->path().string(),
           " has written no model yet; let it end, or go on with: espalier simulate --resume ",
           folder->path().string());
    }
  }
  Json tree = read_toml_file(config_path);
  std::vector<std::string> notes = override_config(tree, arguments.assignments);
  TrainedModel model{read_run_config(tree), {}, {}, SafetensorsFile::read(path),
                     std::move(notes),      {}};
  if (folder && arguments.config.empty()) {
    for (std::string& note : use_kept_inputs(model.config, *folder, arguments.assignments))
      model.notes.push_back(std::move(note));
  }
  models::configure_thread();

  const std::optional<data::Dataset> made_for = samples_of(model.file);
  for (const std::string& assignment : arguments.assignments) {
    if (made_for && assignment.starts_with("data.normalize="))
      fail(command, "a model reads its inputs as it was trained to; leave data.normalize out");
  }
  const bool own_model = make_strategy(model.config)->capabilities().own_model != nullptr;
  if (made_for && !arguments.data.empty() && !own_model) {
    model.data.train = std::make_shared<data::Dataset>(*made_for);  // nothing of it is needed
  } else {
    std::optional<data::Normalization> normalization;
    if (made_for) normalization = {made_for->mean, made_for->stddev};
    model.data = load_data(model.config, normalization ? &*normalization : nullptr);
  }
  const data::Dataset& like = made_for ? *made_for : *model.data.train;
  model.spec = train::spec_of(like);
  if (!arguments.data.empty()) {
    model.data.test = std::make_shared<data::Dataset>(data::load_samples(arguments.data, like));
  } else {
    require_fit(like, *model.data.test, model.config.data.root);
    const auto kept = folder ? folder->data() : std::nullopt;
    const std::string difference =
        kept ? data_difference(*kept, *model.data.test, "test") : std::string();
    if (!difference.empty()) model.notes.push_back("not the run's own test samples: " + difference);
  }

  model.inputs = {path, config_path, arguments.data};
  for (const InputFile& input : input_files(model.config)) model.inputs.push_back(input.path);
  for (const std::filesystem::path& place :
       data::data_folders(model.config.data.name, model.config.data.root)) {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(place, ignored))
      model.inputs.push_back(entry.path());
  }
  return model;
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
  const train::EvalSums sums = trainer.evaluate_all(
      test, train::all_samples(test.size()), static_cast<size_t>(model.config.run.eval_batch));
  if (sums.count == 0) fail("evaluate", "there are no test samples to evaluate on");
  return sums;
}

}  // namespace espalier::run
