#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/data/load.h"
#include "espalier/models/make_trainer.h"
#include "espalier/params/safetensors.h"
#include "espalier/run/run_config.h"

// Ways to run a trained model: `espalier evaluate --runtime NAME`. Each is one file,
// runtime_<name>.cpp, and one row of the table in runtimes.cpp.
namespace espalier::run {

// A trained model: its weights as a file, the configuration that made it, and the data.
struct TrainedModel {
  run::RunConfig config;
  data::DataSource data;
  train::DataSpec spec;  // of the samples that the model was made for
  SafetensorsFile file;
  std::vector<std::string> notes;             // what a person should know of data that differ
  std::vector<std::filesystem::path> inputs;  // everything that was read
};

// Opens a run folder, or a safetensors file that `config` describes (it also replaces a run's own
// configuration); `assignments` are key=value pairs over it. `data`: a file of samples to evaluate
// on instead of the test samples. Images are normalized as the model was trained, whatever data are
// read. `command` begins the messages. Also prepares this thread for Trainers. Throws Error.
struct ModelArguments {
  std::string target, config;
  std::vector<std::string> assignments;
  std::string data = {};
};
TrainedModel open_model(const std::string& command, const ModelArguments& arguments);

// A trainer of the whole model.
std::unique_ptr<train::Trainer> make_trainer(const TrainedModel& model);
// The weights, as the one model that the trainer has. Throws Error when the file holds anything
// else, or when the strategy's model has parts of its own: only the dense runtime knows those.
ParameterSet read_weights(const TrainedModel& model, const train::Trainer& trainer);
// The same for a model that has nothing besides its layout.
ParameterSet read_weights(const TrainedModel& model,
                          const std::shared_ptr<const ParameterLayout>& layout);

// Loss and correct predictions of the trainer's loaded weights on all test samples, `eval_batch` at
// a time. Throws Error when there are none.
train::EvalSums evaluate_test(const TrainedModel& model, train::Trainer& trainer);

// What a runtime found, to be printed: numbers and texts by name. "variants" may hold an object of
// figures for each of several forms of the model, which a person sees side by side; other objects
// are in the JSON only.
struct Runtime {
  std::string name, summary;
  Json (*evaluate)(const TrainedModel& model);
};
const std::vector<Runtime>& runtimes();
// Throws Error that names the nearest known one.
const Runtime& find_runtime(const std::string& name);

}  // namespace espalier::run
