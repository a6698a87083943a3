#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/data/dataset.h"

// Finding and reading data sets by name. Every failure (missing, truncated or corrupt files, labels
// out of range, counts that disagree) is a one-line Error that names the file; missing files also
// say where was looked and what to run.
namespace espalier::data {

// [data]
struct DataOptions {
  std::string name = "fashion-mnist";
  std::string root;
  std::string split = "balanced";
  std::string normalize = "dataset";
  int64_t skip_train_samples = 0;
  int64_t max_train_samples = 0;
  int64_t max_test_samples = 0;

  int64_t synthetic_train_samples = 6000;
  int64_t synthetic_test_samples = 1000;
  int64_t synthetic_classes = 10;
  std::vector<int64_t> synthetic_shape = {1, 28, 28};
  double synthetic_noise = 1.0;
  int64_t synthetic_clients = 0;
  double synthetic_alpha = 1.0;
  double synthetic_beta = 1.0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    constexpr const char* kSynthetic = "data.name = \"synthetic\"";
    const bool synthetic = self.name == "synthetic", owners = self.synthetic_clients > 0;
    visit("name", self.name, Field("The data set; `espalier list datasets` shows them."));
    visit(
        "root", self.root,
        Field(
            "Folder of the files; empty means the usual places: $ESPALIER_DATA/NAME, ./data/NAME, "
            "~/.local/share/espalier/NAME and, for fashion-mnist, "
            "/usr/share/datasets/fashion-mnist.")
            .path()
            .needs(!synthetic, "a data set that is read from files"));
    visit("split", self.split,
          Field("emnist: which of its data sets.")
              .one_of({"balanced", "byclass", "bymerge", "digits", "letters", "mnist"})
              .needs(self.name == "emnist", "data.name = \"emnist\""));
    visit("normalize", self.normalize,
          Field("How a model reads the bytes of images, for the whole life of the run; dataset: "
                "(byte/255 - mean)/deviation per channel, of the data set; unit: byte/255; none: "
                "the byte, 0 to 255. Float values are read as they are (dataset, none).")
              .one_of({"dataset", "none", "unit"}));
    visit("skip_train_samples", self.skip_train_samples,
          Field("Leave out the first so many training samples, which another run may have used.")
              .at_least(0));
    visit("max_train_samples", self.max_train_samples,
          Field("Use only the first so many training samples (of those that are not skipped); 0 "
                "uses all.")
              .at_least(0));
    visit("max_test_samples", self.max_test_samples,
          Field("Use only the first so many test samples; 0 uses all.").at_least(0));
    visit("synthetic_train_samples", self.synthetic_train_samples,
          Field("synthetic: number of training samples.")
              .at_least(1)
              .at_most(1e9)
              .needs(synthetic, kSynthetic));
    visit("synthetic_test_samples", self.synthetic_test_samples,
          Field("synthetic: number of test samples.")
              .at_least(1)
              .at_most(1e9)
              .needs(synthetic, kSynthetic));
    visit("synthetic_classes", self.synthetic_classes,
          Field("synthetic: number of classes.")
              .at_least(2)
              .at_most(100000)
              .needs(synthetic, kSynthetic));
    visit("synthetic_shape", self.synthetic_shape,
          Field("synthetic: shape of a sample; three numbers make images of channels, height, "
                "width, any other count "
                "makes float32 values.")
              .at_least(1)
              .at_most(1 << 20)
              .needs(synthetic, kSynthetic));
    visit("synthetic_noise", self.synthetic_noise,
          Field("synthetic: standard deviation of the noise; the class prototypes have 1.")
              .at_least(0)
              .at_most(100)
              .needs(synthetic, kSynthetic)
              .needs(!owners, "data.synthetic_clients = 0"));
    visit("synthetic_clients", self.synthetic_clients,
          Field("synthetic: number of natural clients, each with its own distribution as in "
                "Synthetic(alpha, beta) of "
                "FedProx (Li et al. 2020); 0 makes one distribution without owners.")
              .at_least(0)
              .at_most(1e6)
              .needs(synthetic, kSynthetic));
    visit("synthetic_alpha", self.synthetic_alpha,
          Field("synthetic: variance, over the clients, of the mean of their labeling models.")
              .at_least(0)
              .needs(synthetic, kSynthetic)
              .needs(owners, "data.synthetic_clients above 0"));
    visit("synthetic_beta", self.synthetic_beta,
          Field("synthetic: variance, over the clients, of the mean of their inputs.")
              .at_least(0)
              .needs(synthetic, kSynthetic)
              .needs(owners, "data.synthetic_clients above 0"));
  }
};

// What a loader returns; load_dataset limits, checks and shares it, and adds what it notices.
struct LoadedData {
  Dataset train, test;
  std::vector<std::string> notes = {};  // what the loader guessed; becomes DataSource::notes
  std::filesystem::path folder = {};    // where the files were found; empty: there are none
};

struct DatasetRow {
  std::string name, summary;
  // `key` feeds data sets that are drawn (synthetic); readers ignore it.
  LoadedData (*load)(const DataOptions& options, Key key);
};
// The one table of data sets.
const std::vector<DatasetRow>& dataset_rows();

// Throws Error on an unknown name (with the nearest known one) and on everything a reader finds
// wrong. `normalization`: of the model that will see the images, instead of what
// options.normalize says; it must have their channels. `folder` receives where the files were
// found, empty for data without. `place`: may put a data set's inputs elsewhere (SharedData) before
// anybody shares it.
DataSource load_dataset(const DataOptions& options, Key key,
                        const Normalization* normalization = nullptr,
                        std::filesystem::path* folder = nullptr,
                        const std::function<void(Dataset&)>& place = {});

// Labeled samples from one file as docs/data.md describes them, for a model that was made for
// samples `like` these (a Dataset without any): of its kind, shape and normalization, with labels
// and tokens that it knows. Throws Error that says what differs.
Dataset load_samples(const std::filesystem::path& file, const Dataset& like);

// Where `name` is looked for: `root` alone when it is given, else the usual places in order.
std::vector<std::filesystem::path> data_folders(std::string_view name, const std::string& root);

// The first of those folders that has all of `files`, each under its name or with ".gz", as paths
// in the given order; with `inner`, each folder's sub-folder of that name counts too. The Error
// lists files and folders and ends with `advice`.
std::vector<std::filesystem::path> find_data_files(std::string_view name, const std::string& root,
                                                   const std::vector<std::string>& files,
                                                   std::string_view advice,
                                                   std::string_view inner = {});

}  // namespace espalier::data
