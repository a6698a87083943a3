#include "espalier/run/sources.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/memory_use.h"
#include "espalier/data/fingerprint.h"
#include "espalier/data/load.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/models.h"
#include "espalier/run/model_checks.h"
#include "espalier/train/rehearsal.h"

namespace espalier::run {

namespace fs = std::filesystem;

namespace {

constexpr const char* kKinds[] = {"image", "float", "tokens"};

Key seed_of(const RunConfig& config) { return Key(static_cast<uint64_t>(config.run.seed)); }

// The value of a dotted key; null when there is none.
const Json* find_value(const Json& tree, const std::string& key) {
  const Json* value = &tree;
  for (size_t begin = 0; begin <= key.size();) {
    const size_t end = std::min(key.find('.', begin), key.size());
    if (!value->is_object()) return nullptr;
    const auto found = value->find(key.substr(begin, end - begin));
    if (found == value->end()) return nullptr;
    value = &*found;
    begin = end + 1;
  }
  return value;
}

std::string path_at(const Json& tree, const std::string& key) {
  const Json* value = find_value(tree, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : "";
}

std::string hex(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

Json describe_part(const data::Dataset& part) {
  return {{"samples", part.size()}, {"fingerprint", hex(data::fingerprint(part))}};
}

}  // namespace

data::DataSource load_data(const RunConfig& config, const data::Normalization* normalization,
                           fs::path* folder, const std::function<void(data::Dataset&)>& place) {
  return data::load_dataset(config.data, seed_of(config).child(Purpose::kData), normalization,
                            folder, place);
}

std::unique_ptr<data::Partition> divide(const RunConfig& config, const data::DataSource& data,
                                        std::vector<std::string>* notes) {
  return data::make_partition(config.partition, *data.train,
                              seed_of(config).child(Purpose::kPartition), notes);
}

Sources load_sources(const RunConfig& config, size_t num_threads, const Json* kept,
                     const LoadData& load) {
  Sources sources;
  {
    const MemoryScope scope(MemoryUse::kData);
    sources.data =
        load ? load(config, &sources.folder) : load_data(config, nullptr, &sources.folder);
  }
  give_memory_back();  // the files as they were read
  if (kept != nullptr) {
    for (const auto& [part, dataset] : {std::pair("train", sources.data.train.get()),
                                        std::pair("test", sources.data.test.get())}) {
      const std::string difference = data_difference(*kept, *dataset, part);
      if (!difference.empty()) {
        fail("simulate", "the data are not those of the rounds before: ", difference,
             config.data.root.empty() ? "" : " (" + config.data.root + ")",
             "; bring them back, set data.root to where they are, or start a new run");
      }
    }
  }
  sources.notes = sources.data.notes;
  sources.partition = divide(config, sources.data, &sources.notes);
  const train::StepOptions& step = config.train.step;
  data::check_augmentation(*sources.data.train, {step.crop_padding, step.flip, step.cutout});
  const train::DataSpec spec = train::spec_of(*sources.data.train);
  // A graph tells its size before anything is allocated for it.
  if (const auto graph = models::build_graph(config.model, spec); graph != nullptr) {
    require_memory(config.model.name, run_sizes(*graph->layout, sources.data, 0), num_threads,
                   machine_memory());
  }
  // One replica for the shapes and the initial weights; the workers make their own.
  const MemoryScope scope(MemoryUse::kServer);
  const auto trainer = models::make_trainer(config.model, spec, config.train.hardware);
  refuse_idle_model_options(config);
  sources.sizes =
      run_sizes(*trainer->layout(), sources.data, trainer->training_bytes(step.batch_size, step));
  require_memory(config.model.name, sources.sizes, num_threads, machine_memory());
  sources.initial = ParameterSet(trainer->layout());
  if (config.model.init.empty()) {
    trainer->initialize(seed_of(config).child(Purpose::kInitialization), sources.initial);
  } else {
    train::read_weights(SafetensorsFile::read(config.model.init), trainer->fixed(),
                        sources.initial);
  }
  for (const ParameterInfo& tensor : sources.initial.layout().tensors()) {
    if (!all_finite(sources.initial.values(tensor)))
      fail("config", "model ", config.model.name, " begins with values in '", tensor.name,
           "' that are not finite",
           config.model.file.empty() ? "" : concat(" (", config.model.file, ")"));
  }
  sources.fixed = trainer->fixed();
  check_output(config, *trainer);
  check_units(config, spec, *trainer);
  train::check_batches(*sources.partition, step);
  train::rehearse(
      *trainer, sources.initial,
      {sources.data, *sources.partition, step, static_cast<size_t>(config.run.eval_batch)});
  return sources;
}

std::vector<InputFile> input_files(const RunConfig& config) {
  std::vector<InputFile> files;
  for (const SectionHelp& section : describe_config(config.selection.name)) {
    for (const FieldHelp& field : section.fields) {
      const std::string key =
          section.section.empty() ? field.name : section.section + "." + field.name;
      if (!field.is_path || key == "data.root") continue;
      if (const std::string path = path_at(config.resolved, key); !path.empty())
        files.push_back({key, path});
    }
  }
  return files;
}

void keep_inputs(const RunConfig& config, const report::RunFolder& folder) {
  for (const InputFile& input : input_files(config)) {
    const fs::path copy = folder.inputs_path() / input.key;
    if (fs::exists(copy)) continue;  // of a run that was killed before its first checkpoint
    make_folder(folder.inputs_path());
    write_file_atomic(copy, read_file(input.path));
  }
}

std::vector<std::string> use_kept_inputs(RunConfig& config, const report::RunFolder& folder,
                                         const std::vector<std::string>& assignments) {
  std::vector<std::string> notes;
  Json tree = config.resolved;
  for (const InputFile& input : input_files(config)) {
    const fs::path kept = fs::absolute(folder.inputs_path() / input.key);
    if (!fs::exists(kept)) continue;
    const bool assigned =
        std::any_of(assignments.begin(), assignments.end(), [&](const std::string& assignment) {
          return assignment.substr(0, assignment.find('=')) == input.key;
        });
    const bool there = fs::is_regular_file(input.path);
    if ((there || assigned) && read_file(input.path) != read_file(kept)) {
      if (assigned) {
        fail("config", input.key, " = ", input.path.string(),
             " is not the file that the run began with; leave the key out to use the run's copy (",
             kept.string(), ")");
      }
      notes.push_back(concat(input.key, ": ", input.path.string(),
                             " has changed since; the run's copy of it is used"));
    }
    set_config_value(tree, concat(input.key, "=", Json(kept.string()).dump()));
  }
  RunConfig with_copies = read_run_config(tree);
  with_copies.resolved = std::move(config.resolved);
  config = std::move(with_copies);
  return notes;
}

Json describe_samples(const data::Dataset& dataset) {
  Json out = {{"kind", kKinds[static_cast<size_t>(dataset.kind)]},
              {"shape", dataset.sample_shape},
              {"classes", dataset.num_classes}};
  if (dataset.kind == data::Kind::kTokens) out["vocabulary"] = dataset.vocabulary;
  if (!dataset.mean.empty()) {
    out["mean"] = dataset.mean;
    out["stddev"] = dataset.stddev;
  }
  return out;
}

std::optional<data::Dataset> samples_of(const SafetensorsFile& file) {
  const auto entry = file.metadata().find(kSamplesEntry);
  if (entry == file.metadata().end()) return std::nullopt;
  try {
    const Json json = Json::parse(entry->second);
    data::Dataset dataset;
    const auto kind = json.at("kind").get<std::string>();
    const auto found = std::find(std::begin(kKinds), std::end(kKinds), kind);
    if (found == std::end(kKinds)) throw std::invalid_argument(kind);
    dataset.kind = static_cast<data::Kind>(found - std::begin(kKinds));
    dataset.sample_shape = json.at("shape").get<std::vector<int64_t>>();
    dataset.num_classes = json.at("classes").get<int64_t>();
    dataset.vocabulary = json.value("vocabulary", int64_t{0});
    dataset.mean = json.value("mean", std::vector<float>{});
    dataset.stddev = json.value("stddev", std::vector<float>{});
    bool sound = dataset.num_classes >= 1 && !dataset.sample_shape.empty() &&
                 dataset.mean.size() == dataset.stddev.size();
    for (const int64_t dimension : dataset.sample_shape) sound = sound && dimension >= 1;
    if (dataset.kind == data::Kind::kImage) {
      sound = sound && dataset.sample_shape.size() == 3 &&
              dataset.mean.size() == static_cast<size_t>(dataset.sample_shape[0]);
    }
    if (!sound) throw std::invalid_argument("numbers that do not go together");
    return dataset;
  } catch (const std::exception&) {
    fail(file.where(), "the metadata '", kSamplesEntry, "' is damaged: ", entry->second);
  }
}

Json describe_data(const data::DataSource& data) {
  return {{kSamplesEntry, describe_samples(*data.train)},
          {"train", describe_part(*data.train)},
          {"test", describe_part(*data.test)}};
}

std::string data_difference(const Json& kept, const data::Dataset& now, const std::string& part) {
  const Json current = describe_part(now);
  const Json before = kept.value(part, Json::object());
  if (before == current) return "";
  const std::string which = part == "train" ? "training" : "test";
  const auto count = before.value("samples", size_t{0});
  if (count != now.size()) return concat(now.size(), " ", which, " samples instead of ", count);
  return concat("the ", now.size(), " ", which, " samples have other contents");
}

}  // namespace espalier::run
