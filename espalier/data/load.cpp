#include "espalier/data/load.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/named_rows.h"
#include "espalier/data/cifar.h"
#include "espalier/data/handed_over.h"
#include "espalier/data/idx.h"
#include "espalier/data/leaf.h"
#include "espalier/data/notes.h"
#include "espalier/data/synthetic.h"
#include "espalier/data/tensor_dataset.h"

namespace espalier::data {

namespace fs = std::filesystem;

namespace {

// `count` values from `first` on stay; what they took besides is freed.
template <class T>
void keep_values(Values<T>& values, size_t first, size_t count) {
  if (values.borrowed()) return values.keep(first, count);
  const T* begin = std::as_const(values).begin() + first;
  values = Values<T>(AlignedVector<T>(begin, begin + count));
}

// Keeps `limit` samples (0: all) from `skip` on.
void limit_samples(Dataset& dataset, int64_t skip, int64_t limit) {
  const size_t size = dataset.size(), width = dataset.sample_size();
  const auto first = static_cast<size_t>(skip);
  if (first >= size && skip > 0)
    fail("data/" + dataset.name, "data.skip_train_samples = ", skip, " leaves none of the ", size,
         " training samples; lower it");
  const size_t count =
      limit == 0 ? size - first : std::min(static_cast<size_t>(limit), size - first);
  if (count == size) return;
  const auto keep = [&]<class T>(std::vector<T>& values, size_t per_sample) {
    values.erase(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(first * per_sample));
    values.resize(count * per_sample);
  };
  if (dataset.kind == Kind::kImage) keep_values(dataset.pixels, first * width, count * width);
  if (dataset.kind == Kind::kFloat) keep_values(dataset.floats, first * width, count * width);
  if (dataset.kind == Kind::kTokens) keep_values(dataset.tokens, first * width, count * width);
  keep(dataset.labels, 1);
  if (!dataset.client_of_sample.empty()) keep(dataset.client_of_sample, 1);
}

// Float images are used as they are, and what augmentation fills with follows from them.
void set_fill(Dataset& train) {
  if (train.kind != Kind::kFloat || !train.has_images() || train.fetch) return;
  const auto channels = static_cast<size_t>(train.sample_shape[0]);
  const size_t plane = train.sample_size() / channels;
  std::vector<double> sums(channels, 0);
  const float* values = std::as_const(train.floats).data();
  for (size_t i = 0; i < train.size(); ++i) {
    for (size_t c = 0; c < channels; ++c, values += plane)
      sums[c] += std::accumulate(values, values + plane, 0.0);
  }
  for (const double sum : sums)
    train.fill.push_back(static_cast<float>(sum / static_cast<double>(train.size() * plane)));
}

// Throws Error for what makes no sense of these samples.
void normalize(const std::string& how, Dataset& part) {
  if (how == "dataset") return;
  ESPALIER_CHECK(how == "unit" || how == "none", how);
  const std::string where = "data/" + part.name;
  if (part.kind == Kind::kTokens)
    fail(where, "tokens are no quantities and are never normalized; leave data.normalize out");
  if (part.kind == Kind::kFloat) {
    if (how == "none") return;
    fail(where,
         "float values are used as they are, and data.normalize = \"unit\" is for bytes; leave it "
         "out, or store uint8 (samples, channels, height, width)");
  }
  const size_t channels = part.mean.size();
  set_normalization(part,
                    how == "unit" ? Normalization::unit(channels) : Normalization::none(channels));
}

std::shared_ptr<const Dataset> finish(Dataset dataset, int64_t skip, int64_t limit,
                                      const std::function<void(Dataset&)>& place) {
  dataset.validate();
  limit_samples(dataset, skip, limit);
  set_fill(dataset);
  if (place) place(dataset);
  return std::make_shared<const Dataset>(std::move(dataset));
}

template <class Range, class ToText>
std::string joined(const Range& items, ToText&& text) {
  std::string out;
  for (const auto& item : items) out += (out.empty() ? "" : ", ") + text(item);
  return out;
}

}  // namespace

const std::vector<DatasetRow>& dataset_rows() {
  static const std::vector<DatasetRow> rows = {
      {"mnist", "Handwritten digits, 60,000 + 10,000 of 28x28, 10 classes.", load_mnist},
      {"fashion-mnist", "Articles of clothing, 60,000 + 10,000 of 28x28, 10 classes.",
       load_fashion_mnist},
      {"emnist",
       "Handwritten letters and digits, 28x28; the option split chooses 10 to 62 classes.",
       load_emnist},
      {"cifar10", "Photographs of 10 classes of things, 50,000 + 10,000 of 32x32 in color.",
       load_cifar10},
      {"cifar100", "Photographs of 100 classes of things, 50,000 + 10,000 of 32x32 in color.",
       load_cifar100},
      {"leaf", "FEMNIST or Shakespeare as LEAF's JSON, with natural clients.", load_leaf},
      {"safetensors", "Your own data: inputs, labels and perhaps clients as two safetensors files.",
       load_safetensors},
      {"memory", "Arrays that a program has handed over: Python's espalier.Dataset.",
       load_handed_over},
      {"synthetic",
       "Drawn data: class prototypes with noise, or clients as in FedProx's Synthetic(a, b).",
       load_synthetic},
  };
  return rows;
}

DataSource load_dataset(const DataOptions& options, Key key, const Normalization* normalization,
                        fs::path* folder, const std::function<void(Dataset&)>& place) {
  LoadedData loaded = find_row(dataset_rows(), options.name, "data", "data set").load(options, key);
  if (folder != nullptr)
    *folder = loaded.folder.empty() ? "" : fs::absolute(loaded.folder).lexically_normal();
  for (Dataset* part : {&loaded.train, &loaded.test}) {
    if (normalization == nullptr)
      normalize(options.normalize, *part);
    else if (part->kind == Kind::kImage)
      std::tie(part->mean, part->stddev) = std::tie(normalization->mean, normalization->stddev);
  }
  DataSource source{
      finish(std::move(loaded.train), options.skip_train_samples, options.max_train_samples, place),
      finish(std::move(loaded.test), 0, options.max_test_samples, place), std::move(loaded.notes)};
  if (source.train->sample_shape != source.test->sample_shape ||
      source.train->kind != source.test->kind) {
    fail("data/" + options.name, "expected training and test samples of one kind and shape, got ",
         kind_name(source.train->kind), " of ", shape_text(source.train->sample_shape), " and ",
         kind_name(source.test->kind), " of ", shape_text(source.test->sample_shape));
  }
  add_notes(*source.train, *source.test, source.notes);
  return source;
}

std::vector<fs::path> data_folders(std::string_view name, const std::string& root) {
  if (!root.empty()) return {fs::path(root)};
  std::vector<fs::path> folders;
  if (const char* base = std::getenv("ESPALIER_DATA"); base != nullptr && *base != '\0') {
    folders.push_back(fs::path(base) / name);
  }
  folders.push_back(fs::path("data") / name);
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    folders.push_back(fs::path(home) / ".local/share/espalier" / name);
  }
  if (name == "fashion-mnist") folders.emplace_back("/usr/share/datasets/fashion-mnist");
  return folders;
}

std::vector<fs::path> find_data_files(std::string_view name, const std::string& root,
                                      const std::vector<std::string>& files,
                                      std::string_view advice, std::string_view inner) {
  const auto folders = data_folders(name, root);
  std::vector<fs::path> places;
  for (const fs::path& folder : folders) {
    places.push_back(folder);
    if (!inner.empty()) places.push_back(folder / inner);
  }
  for (const fs::path& place : places) {
    std::vector<fs::path> found;
    for (const std::string& file : files) {
      std::error_code ignored;
      if (fs::exists(place / file, ignored)) {
        found.push_back(place / file);
      } else if (fs::exists(place / (file + ".gz"), ignored)) {
        found.push_back(place / (file + ".gz"));
      } else {
        break;
      }
    }
    if (found.size() == files.size()) return found;
  }
  fail(concat("data/", name), "expected the files ",
       joined(files, [](const std::string& f) { return f; }),
       " (plain or .gz) together in one of: ",
       joined(folders, [](const fs::path& f) { return f.string(); }), "; ", advice);
}

}  // namespace espalier::data
