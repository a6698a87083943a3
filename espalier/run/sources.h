#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "espalier/data/dataset.h"
#include "espalier/data/partition.h"
#include "espalier/params/parameter_set.h"
#include "espalier/params/safetensors.h"
#include "espalier/report/run_folder.h"
#include "espalier/run/run_config.h"
#include "espalier/run/sizes.h"
#include "espalier/train/fixed_tensors.h"

// What a run depends on, and what its folder keeps of that, so that going on with it or looking at
// its model later does not depend on anything outside unseen: modules and initial weights are
// copied into inputs/, data are described by sizes and fingerprints in data.json, and how pixels
// become inputs travels with the model.
namespace espalier::run {

// What a run is about: the data, who owns which of it, and the weights that it begins with.
struct Sources {
  data::DataSource data;
  std::unique_ptr<data::Partition> partition;
  ParameterSet initial;
  train::FixedTensors fixed;          // what the model has besides
  std::filesystem::path folder = {};  // where the data's files were found; empty: there are none
  RunSizes sizes;
  std::vector<std::string> notes = {};  // on data and partition, for a person
};
// How a run gets its data; load_data() unless somebody has them already.
using LoadData =
    std::function<data::DataSource(const RunConfig& config, std::filesystem::path* folder)>;
// As the configuration says; everything random follows from its seed. With `kept`, the data.json of
// a run that goes on, data that are not those of its rounds before are refused. Throws Error when
// something is missing or does not fit, or would not fit into this machine's memory with so many
// clients at a time.
Sources load_sources(const RunConfig& config, size_t num_threads, const Json* kept = nullptr,
                     const LoadData& load = {});
// Data and partition alone, as `espalier data` and `espalier evaluate` need them: whoever counts
// samples, classes or clients counts these. `normalization`, `folder` and `place` as in
// data::load_dataset, `notes` as in data::make_partition.
data::DataSource load_data(const RunConfig& config,
                           const data::Normalization* normalization = nullptr,
                           std::filesystem::path* folder = nullptr,
                           const std::function<void(data::Dataset&)>& place = {});
std::unique_ptr<data::Partition> divide(const RunConfig& config, const data::DataSource& data,
                                        std::vector<std::string>* notes = nullptr);

// The files that a configuration names (data apart), by their keys.
struct InputFile {
  std::string key;  // "model.file"
  std::filesystem::path path;
};
std::vector<InputFile> input_files(const RunConfig& config);
// Copies them into the folder, each under its key.
void keep_inputs(const RunConfig& config, const report::RunFolder& folder);
// Makes a configuration read the copies that the folder has. `resolved` stays as it was: it says
// where they came from. Returns a line for each file that has changed since. Throws Error when one
// of `assignments` ("key=value") points a key at a file with other contents.
std::vector<std::string> use_kept_inputs(RunConfig& config, const report::RunFolder& folder,
                                         const std::vector<std::string>& assignments = {});

// data.json: what models see of the samples, and sizes and fingerprints of both parts.
Json describe_data(const data::DataSource& data);
// What differs between kept data and these, in words; empty: nothing. "train" or "test" of both.
std::string data_difference(const Json& kept, const data::Dataset& now, const std::string& part);

// What models see of samples as metadata of a model's file, and back as a data set without samples.
// nullopt for a file that does not say; Error for one that is damaged.
Json describe_samples(const data::Dataset& dataset);
std::optional<data::Dataset> samples_of(const SafetensorsFile& file);
inline constexpr const char* kSamplesEntry = "samples";

}  // namespace espalier::run
