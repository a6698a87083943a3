#include <cstdio>
#include <filesystem>
#include <numeric>

#include "apps/command.h"
#include "espalier/base/clock.h"
#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/thread_pool.h"
#include "espalier/data/load.h"
#include "espalier/params/safetensors.h"
#include "espalier/report/run_folder.h"
#include "espalier/round/run_config.h"

namespace espalier::apps {

namespace {

struct EvaluateArguments {
  std::string target, config;
  std::vector<std::string> assignments;
  bool json = false;
};

train::EvalSums evaluate_model(const round::RunConfig& config, const data::DataSource& data,
                               const SafetensorsFile& file, train::Trainer& trainer) {
  // A strategy whose model has parts of its own knows how they work together.
  const auto strategy = round::make_strategy(config);
  if (strategy->keeps_encoded()) {
    const auto uplink = codec::make_codec(config.uplink, "uplink");
    strategy::ServerSetup setup;
    setup.layout = trainer.layout();
    const Key seed(static_cast<uint64_t>(config.run.seed));
    setup.num_clients =
        data::make_partition(config.partition, *data.train, seed.child(Purpose::kPartition))
            ->num_clients();
    setup.model = config.model;
    setup.data = train::spec_of(*data.train);
    setup.train = config.train;
    setup.uplink = uplink.get();
    setup.num_threads = available_processors();
    strategy->start(setup);
    if (const auto sums = strategy->evaluate_saved({file, data, trainer})) return *sums;
  }
  ParameterSet weights(trainer.layout());
  read_parameters(file, weights);
  trainer.load(weights);
  train::EvalSums sums;
  std::vector<uint32_t> all(data.test->size());
  std::iota(all.begin(), all.end(), uint32_t{0});
  const auto batch = static_cast<size_t>(config.run.eval_batch);
  for (size_t begin = 0; begin < all.size(); begin += batch) {
    const auto part = trainer.evaluate(
        *data.test, std::span(all).subspan(begin, std::min(batch, all.size() - begin)));
    sums.loss += part.loss;
    sums.correct += part.correct;
    sums.count += part.count;
  }
  return sums;
}

// Evaluates the weights of a run, or a safetensors file with the configuration that describes it,
// on the test samples.
void evaluate(const EvaluateArguments& arguments) {
  const bool is_run = report::RunFolder::is_run(arguments.target);
  if (!is_run && arguments.config.empty()) {
    fail("evaluate", "expected a run folder, or a model file with --config CONFIG.toml, got ",
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
  const round::RunConfig config = round::read_run_config(tree);
  const data::DataSource data = data::load_dataset(
      config.data, Key(static_cast<uint64_t>(config.run.seed)).child(Purpose::kData));
  train::configure_thread();
  const auto trainer = train::make_trainer(config.model, train::spec_of(*data.train),
                                           config.train.precision, config.train.device);
  const SafetensorsFile file = SafetensorsFile::read(model);
  const Stopwatch time;
  const train::EvalSums sums = evaluate_model(config, data, file, *trainer);
  const double seconds = time.seconds();
  if (sums.count == 0) fail("evaluate", "there are no test samples to evaluate on");
  const double count = static_cast<double>(sums.count);
  Json out = {{"model", config.model.name},
              {"samples", sums.count},
              {"accuracy", static_cast<double>(sums.correct) / count},
              {"loss", sums.loss / count},
              {"parameters", trainer->layout()->num_trainable()},
              {"macs_per_sample", trainer->macs_per_sample()},
              {"seconds", seconds},
              {"samples_per_second", count / seconds}};
  if (arguments.json) {
    std::printf("%s\n", out.dump().c_str());
  } else {
    for (const auto& [key, value] : out.items())
      std::printf("%-20s %s\n", key.c_str(),
                  value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
  }
}

}  // namespace

void add_evaluate_command(CLI::App& app) {
  auto arguments = std::make_shared<EvaluateArguments>();
  CLI::App* command =
      app.add_subcommand("evaluate", "Evaluate the model of a run on the test samples");
  command
      ->add_option("MODEL_OR_RUN", arguments->target,
                   "Run folder, or a safetensors file with --config")
      ->required();
  command->add_option("--config", arguments->config, "Configuration that names model and data");
  command->add_option("--set", arguments->assignments, "Override a key (repeatable)")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->footer(
      "Examples:\n  espalier evaluate runs/fashion-mnist\n  espalier evaluate model.safetensors "
      "--config examples/fashion-mnist.toml");
  command->callback([arguments] { evaluate(*arguments); });
}

}  // namespace espalier::apps
