#include "espalier/train/trainer.h"

#include <cmath>
#include <numbers>

#include "espalier/train/flat_trainer.h"
#include "espalier/train/graph_net.h"
#include "espalier/train/models.h"
#include "espalier/train/torch_net.h"

namespace espalier::train {

double lr_at_round(const TrainOptions& options, int64_t round, int64_t num_rounds) {
  const int64_t warmup = options.lr_warmup_rounds;
  if (round < warmup)
    return options.lr * static_cast<double>(round + 1) / static_cast<double>(warmup);
  const int64_t past = round - warmup;
  if (options.lr_schedule == "step") {
    return options.lr *
           std::pow(options.lr_decay, static_cast<double>(past / options.lr_step_rounds));
  }
  if (options.lr_schedule == "cosine") {
    const auto span = static_cast<double>(std::max<int64_t>(1, num_rounds - warmup));
    const double part = std::min(1.0, static_cast<double>(past) / span);
    return options.lr * 0.5 * (1 + std::cos(std::numbers::pi * part));
  }
  return options.lr;
}

DataSpec spec_of(const data::Dataset& dataset) {
  return {dataset.kind, dataset.sample_shape, dataset.num_classes, dataset.vocabulary};
}

namespace {

// Models that libtorch runs under autograd.
struct TorchRow {
  ModelRow row;
  std::unique_ptr<Net> (*make)(const ModelOptions& options, const DataSpec& data,
                               const std::string& device, std::span<const int64_t> units);
};
const std::vector<TorchRow>& torch_models() {
  static const std::vector<TorchRow> models = {
      {{"lstm", "Embedding, stacked LSTM, last step to a linear layer; for token sequences."},
       make_lstm_net},
      {{"torchscript", "A scripted PyTorch module of your own (`file`), trained as it is."},
       make_script_net},
  };
  return models;
}

std::unique_ptr<Net> make_net(const ModelOptions& model, const DataSpec& data,
                              const std::string& precision, const std::string& device,
                              std::span<const int64_t> units) {
  if (auto graph = build_graph(model, data); graph != nullptr) {
    if (!units.empty()) *graph = narrow(*graph, units);
    if (device == "cpu")
      return std::make_unique<GraphNet>(std::move(*graph),
                                        precision == "bf16" ? Type::kBf16 : Type::kFloat);
    if (precision != "fp32")
      fail("train/precision", "device \"cuda\" trains in fp32; set train.precision = \"fp32\"");
    return make_torch_graph_net(std::move(*graph), device);
  }
  for (const TorchRow& row : torch_models()) {
    if (row.row.name != model.name) continue;
    check_gates(model, false);
    if (precision != "fp32") {
      fail("train/precision", "model '", model.name,
           "' trains in fp32; set train.precision = \"fp32\"");
    }
    return row.make(model, data, device, units);
  }
  std::vector<std::string> known;
  for (const ModelRow& row : model_rows()) known.push_back(row.name);
  fail("train/model", unknown_name_message("model", model.name, known));
}

}  // namespace

const std::vector<ModelRow>& model_rows() {
  static const std::vector<ModelRow> rows = [] {
    std::vector<ModelRow> all;
    for (const GraphModel& model : graph_models()) all.push_back(model.row);
    for (const TorchRow& model : torch_models()) all.push_back(model.row);
    return all;
  }();
  return rows;
}

std::shared_ptr<const ParameterLayout> model_layout(const ModelOptions& model,
                                                    const DataSpec& data) {
  if (const auto graph = build_graph(model, data); graph != nullptr) return graph->layout;
  return make_net(model, data, "fp32", "cpu", {})->layout();
}

std::unique_ptr<Trainer> make_trainer(const ModelOptions& model, const DataSpec& data,
                                      const std::string& precision, const std::string& device,
                                      std::span<const int64_t> units) {
  if (data.num_classes < 1) fail("train/model", "the data set has no classes");
  check_device(device);
  const auto narrower = [model, data, precision, device](std::span<const int64_t> fewer) {
    return make_net(model, data, precision, device, fewer);
  };
  return std::make_unique<FlatTrainer>(make_net(model, data, precision, device, units), data,
                                       narrower, model.init);
}

}  // namespace espalier::train
