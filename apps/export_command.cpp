#include <cstdio>
#include <string>

#include "apps/command.h"
#include "apps/figures.h"
#include "espalier/run/export_model.h"

namespace espalier::apps {

namespace {

struct ExportArguments {
  run::ModelArguments model;
  std::string out, runtime;
  bool json = false;
};

}  // namespace

void add_export_command(CLI::App& app) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App* command = app.add_subcommand(
      "export", "Write a trained model as a TorchScript file that PyTorch runs by itself");
  command
      ->add_option("MODEL_OR_RUN", arguments->model.target,
                   "Run folder, or a safetensors file with --config")
      ->required();
  command->add_option("--out", arguments->out, "The file to write")->required();
  command->add_option("--config", arguments->model.config,
                      "Configuration that names model and data");
  command->add_option("--set", arguments->model.assignments, "Override a key (repeatable)")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("--runtime", arguments->runtime,
                      "pruned: the smallest network that computes the same, without the units that "
                      "do nothing\ndense: every unit, with the shapes of the run's "
                      "model.safetensors\nDefault: pruned, and dense with a note for a model that "
                      "has no smaller network");
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->footer(
      "Prints parameters, sizes, multiply-accumulates, accuracy and latency of the network that is "
      "written,\nand of the dense one beside it. In PyTorch:\n"
      "  model = torch.jit.load(\"model.pt\"); logits = model(x)\n"
      "where x is a batch of normalized NCHW images (or of features, or of int64 tokens); the "
      "archive's extra file\nespalier.json has shape, normalization and classes.\n\n"
      "Examples:\n  espalier export runs/fashion-mnist --out model.pt\n  espalier export "
      "model.safetensors --config examples/fashion-mnist.toml --out model.pt --runtime dense");
  command->callback([arguments] {
    Json figures = run::export_model(arguments->model, arguments->runtime, arguments->out);
    for (const Json& note : figures.value("notes", Json::array()))
      std::fprintf(stderr, "note: %s\n", note.get<std::string>().c_str());
    if (!arguments->json) figures.erase("notes");
    print_figures(figures, arguments->json);
  });
}

}  // namespace espalier::apps
