#include <cstdio>

#include "apps/command.h"
#include "apps/figures.h"
#include "espalier/run/runtimes.h"

namespace espalier::apps {

void add_evaluate_command(CLI::App& app) {
  struct Arguments {
    run::ModelArguments model;
    std::string runtime = "dense";
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("evaluate", "Evaluate the model of a run on the test samples");
  command
      ->add_option("MODEL_OR_RUN", arguments->model.target,
                   "Run folder, or a safetensors file with --config")
      ->required();
  command->add_option("--config", arguments->model.config,
                      "Configuration that names model and data");
  command->add_option("--set", arguments->model.assignments, "Override a key (repeatable)")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--data", arguments->model.data,
                      "A safetensors file of inputs and labels (docs/data.md) to evaluate on "
                      "instead of the run's test samples");
  std::string summaries = "How the model runs";
  for (const run::Runtime& row : run::runtimes()) summaries += "\n" + row.name + ": " + row.summary;
  command->add_option("--runtime", arguments->runtime, summaries);
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->footer(
      "Examples:\n  espalier evaluate runs/fashion-mnist\n  espalier evaluate runs/fashion-mnist "
      "--data clinic.safetensors\n  espalier evaluate model.safetensors "
      "--config examples/fashion-mnist.toml");
  command->callback([arguments] {
    const run::Runtime& runtime = run::find_runtime(arguments->runtime);
    const run::TrainedModel model = run::open_model("evaluate", arguments->model);
    for (const std::string& note : model.notes) std::fprintf(stderr, "note: %s\n", note.c_str());
    print_figures(runtime.evaluate(model), arguments->json);
  });
}

}  // namespace espalier::apps
