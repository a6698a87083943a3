#include "apps/runtimes.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <numeric>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/report/human.h"
#include "espalier/report/run_folder.h"
#include "espalier/report/text_table.h"

namespace espalier::apps {

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

SavedModel open_model(const std::string& command, const ModelArguments& arguments) {
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
  round::RunConfig config = round::read_run_config(tree);
  data::DataSource data = data::load_dataset(
      config.data, Key(static_cast<uint64_t>(config.run.seed)).child(Purpose::kData));
  train::configure_thread();
  const train::DataSpec spec = train::spec_of(*data.train);
  return {std::move(config), std::move(data), spec, SafetensorsFile::read(model)};
}

std::unique_ptr<train::Trainer> make_trainer(const SavedModel& model) {
  return train::make_trainer(model.config.model, model.spec, model.config.train.precision,
                             model.config.train.device);
}

ParameterSet read_weights(const SavedModel& model,
                          const std::shared_ptr<const ParameterLayout>& layout) {
  if (round::make_strategy(model.config)->keeps_encoded()) {
    fail("evaluate/model", "the model of strategy '", model.config.strategy.value("name", ""),
         "' consists of parts that work together, which only `espalier evaluate --runtime dense` "
         "can run");
  }
  ParameterSet weights(layout);
  read_parameters(model.file, weights);
  return weights;
}

train::EvalSums evaluate_test(const SavedModel& model, train::Trainer& trainer) {
  train::EvalSums sums;
  std::vector<uint32_t> all(model.data.test->size());
  std::iota(all.begin(), all.end(), uint32_t{0});
  const auto batch = static_cast<size_t>(model.config.run.eval_batch);
  for (size_t begin = 0; begin < all.size(); begin += batch) {
    const auto part = trainer.evaluate(
        *model.data.test, std::span(all).subspan(begin, std::min(batch, all.size() - begin)));
    sums.loss += part.loss;
    sums.correct += part.correct;
    sums.count += part.count;
  }
  if (sums.count == 0) fail("evaluate", "there are no test samples to evaluate on");
  return sums;
}

namespace {

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// With the unit that the name tells of; four digits are enough to compare by.
std::string cell(const std::string& key, const Json& value) {
  const auto has = [&](const char* part) { return key.find(part) != std::string::npos; };
  if (value.is_number()) {
    const auto number = value.get<double>();
    if (has("accuracy")) return report::human_percent(number);
    if (has("per_second")) return report::human_count(number);
    if (has("seconds")) return report::human_seconds(number);
    if (has("bytes")) return report::human_bytes(number);
    if (has("macs")) return report::human_count(number);
  }
  if (!value.is_number_float()) return text_of(value);
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.4g", value.get<double>());
  return text.data();
}

}  // namespace

void print_figures(const Json& figures, bool json) {
  if (json) {
    std::printf("%s\n", figures.dump().c_str());
    return;
  }
  for (const auto& [key, value] : figures.items()) {
    if (!value.is_object()) std::printf("%-20s %s\n", key.c_str(), cell(key, value).c_str());
  }
  if (!figures.contains("variants")) return;
  std::vector<std::vector<std::string>> rows = {{""}};
  std::vector<std::string> keys;  // of all variants, in the order in which they first appear
  for (const auto& [name, variant] : figures["variants"].items()) {
    rows[0].push_back(name);
    for (const auto& [key, value] : variant.items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  for (const std::string& key : keys) {
    rows.push_back({key});
    for (const auto& [name, variant] : figures["variants"].items())
      rows.back().push_back(variant.contains(key) ? cell(name == "ratio" ? name : key, variant[key])
                                                  : "");
  }
  std::printf("\n%s", report::text_table(rows).c_str());
}

}  // namespace espalier::apps
