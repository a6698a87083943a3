#include <algorithm>
#include <filesystem>

#include "apps/command.h"
#include "apps/runtime_measure.h"
#include "apps/runtime_pruned.h"
#include "apps/runtimes.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/train/export.h"

namespace espalier::apps {

namespace {

struct ExportArguments {
  ModelArguments model;
  std::string out, runtime = "pruned";
  bool json = false;
};

// Dense and pruned networks side by side, each with the bytes of its TorchScript file; the one that
// was asked for is written.
Json export_model(const ExportArguments& arguments) {
  const bool prune = arguments.runtime == "pruned";
  if (!prune && arguments.runtime != "dense") {
    fail("export", unknown_name_message("runtime", arguments.runtime, {"dense", "pruned"}));
  }
  const std::filesystem::path file = arguments.out;
  if (std::filesystem::is_directory(file)) {
    fail("export", "expected --out to be a file such as ", (file / "model.pt").string(),
         ", got a folder (", arguments.out, ")");
  }
  if (file.has_parent_path() && !std::filesystem::is_directory(file.parent_path()))
    fail("export", "there is no folder ", file.parent_path().string(), " to write to");
  const SavedModel model = open_model("export", arguments.model);
  train::ExportedModel exported{
      model.config.model, model.spec, {}, model.data.train->mean, model.data.train->stddev};
  Json out = {{"file", arguments.out}, {"model", model.config.model.name}};
  if (prune) {
    const PrunedModel pruned = prune_model(model);
    out.update(describe(pruned));
    out["variants"] = measure(model, {{"dense", pruned.whole.get(), &pruned.dense},
                                      {"pruned", pruned.smaller.get(), &pruned.pruned}});
    out["variants"].erase("ratio");
    const Bytes dense = train::torchscript_archive(exported, pruned.dense);
    exported.units = pruned.units;
    const Bytes smaller = train::torchscript_archive(exported, pruned.pruned);
    out["variants"]["dense"]["file_bytes"] = dense.size();
    out["variants"]["pruned"]["file_bytes"] = smaller.size();
    add_ratio(out["variants"]);
    write_file_atomic(file, smaller);
    return out;
  }
  const auto trainer = make_trainer(model);
  const ParameterSet weights = read_weights(model, trainer->layout());
  trainer->load(weights);
  out["variants"] = measure(model, {{"dense", trainer.get(), &weights}});
  const Bytes archive = train::torchscript_archive(exported, weights);
  out["variants"]["dense"]["file_bytes"] = archive.size();
  write_file_atomic(file, archive);
  return out;
}

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
                      "do nothing (default)\ndense: every unit, with the shapes of the run's "
                      "model.safetensors");
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->footer(
      "Prints parameters, sizes, multiply-accumulates, accuracy and latency of the network that is "
      "written,\nand of the dense one beside it. In PyTorch:\n"
      "  model = torch.jit.load(\"model.pt\"); logits = model(x)\n"
      "where x is a batch of normalized NCHW images (or of features, or of int64 tokens); the "
      "archive's extra file\nespalier.json has shape, normalization and classes.\n\n"
      "Examples:\n  espalier export runs/fashion-mnist --out model.pt\n  espalier export "
      "model.safetensors --config examples/fashion-mnist.toml --out model.pt --runtime dense");
  command->callback([arguments] { print_figures(export_model(*arguments), arguments->json); });
}

}  // namespace espalier::apps
