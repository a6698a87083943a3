#include "espalier/data/tensor_dataset.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::data {

namespace {

constexpr int64_t kMaxIds =
    1 << 24;  // classes or vocabulary: guards the tables that are made of them

bool is_floating(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32 ||
         dtype == DType::kF64;
}

const TensorView& required(const SafetensorsFile& file, const std::string& name) {
  const TensorView* tensor = file.find(name);
  if (tensor == nullptr)
    fail(file.where(), "expected a tensor called '", name, "' (and ",
         name == "labels" ? "inputs" : "labels", ")");
  return *tensor;
}

std::vector<int32_t> read_ids(const TensorView& tensor, const std::string& name,
                              const SafetensorsFile& file) {
  const auto values = tensor.as_int64(file.where() + ", " + name);
  std::vector<int32_t> ids(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= kMaxIds) {
      fail(file.where(), "expected ", name, " in [0, ", kMaxIds, "), got ", values[i], " (value ",
           i, ")");
    }
    ids[i] = static_cast<int32_t>(values[i]);
  }
  return ids;
}

void check_length(const TensorView& tensor, const std::string& name, int64_t samples,
                  const SafetensorsFile& file) {
  if (tensor.shape != std::vector<int64_t>{samples}) {
    fail(file.where(), "expected ", name, " of shape [", samples,
         "] (one per sample of inputs), got ", shape_text(tensor.shape));
  }
}

void read_images(const TensorView& inputs, Dataset& dataset) {
  const auto channels = static_cast<size_t>(inputs.shape[1]);
  const auto plane = static_cast<size_t>(inputs.shape[2] * inputs.shape[3]);
  dataset.pixels.resize(inputs.data.size());
  uint8_t* out = dataset.pixels.data();
  for (size_t i = 0; i < static_cast<size_t>(inputs.shape[0]); ++i) {
    const uint8_t* image = inputs.data.data() + i * channels * plane;
    for (size_t pixel = 0; pixel < plane; ++pixel) {
      for (size_t c = 0; c < channels; ++c) *out++ = image[c * plane + pixel];
    }
  }
}

Dataset read_part(const SafetensorsFile& file) {
  const TensorView& inputs = required(file, "inputs");
  const TensorView& labels = required(file, "labels");
  const auto& shape = inputs.shape;
  if (shape.empty() || std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    fail(file.where(), "expected inputs with at least one sample of at least one value, got shape ",
         shape_text(shape));
  }
  Dataset dataset;
  dataset.name = "safetensors";
  dataset.sample_shape.assign(shape.begin() + 1, shape.end());
  check_length(labels, "labels", shape[0], file);
  dataset.labels = read_ids(labels, "labels", file);
  if (inputs.dtype == DType::kU8 && shape.size() == 4) {
    dataset.kind = Kind::kImage;
    read_images(inputs, dataset);
  } else if (is_floating(inputs.dtype) && shape.size() >= 2) {
    dataset.kind = Kind::kFloat;
    dataset.floats = inputs.as_float(file.where());
    if (!all_finite(dataset.floats)) fail(file.where(), "inputs has values that are not finite");
  } else if (!is_floating(inputs.dtype) && shape.size() == 2) {
    dataset.kind = Kind::kTokens;
    dataset.tokens = read_ids(inputs, "inputs", file);
  } else {
    fail(file.where(),
         "expected inputs as uint8 (samples, channels, height, width), floating point (samples, …) "
         "or ",
         "integers (samples, length), got ", dtype_name(inputs.dtype), " ", shape_text(shape));
  }
  return dataset;
}

// Owners may be any integers; both parts share one list of names, so that an index means the same
// client in both.
void read_owners(const SafetensorsFile& train_file, const SafetensorsFile& test_file,
                 Dataset& train, Dataset& test) {
  const auto read = [](const SafetensorsFile& file,
                       const Dataset& dataset) -> std::vector<int64_t> {
    const TensorView* tensor = file.find("client");
    if (tensor == nullptr) return {};
    check_length(*tensor, "client", static_cast<int64_t>(dataset.size()), file);
    return tensor->as_int64(file.where() + ", client");
  };
  const auto train_ids = read(train_file, train), test_ids = read(test_file, test);
  std::vector<int64_t> known = train_ids;
  known.insert(known.end(), test_ids.begin(), test_ids.end());
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  const auto assign = [&](const std::vector<int64_t>& ids, Dataset& dataset) {
    if (ids.empty()) return;
    for (const int64_t id : known) dataset.client_names.push_back(std::to_string(id));
    for (const int64_t id : ids) {
      dataset.client_of_sample.push_back(
          static_cast<uint32_t>(std::lower_bound(known.begin(), known.end(), id) - known.begin()));
    }
  };
  assign(train_ids, train);
  assign(test_ids, test);
}

int64_t largest(const std::vector<int32_t>& ids) {
  return ids.empty() ? -1 : *std::max_element(ids.begin(), ids.end());
}

int64_t id_count(const std::string& name, const SafetensorsFile& file, int64_t needed) {
  const auto entry = file.metadata().find(name);
  if (entry == file.metadata().end()) return needed;
  int64_t declared = 0;
  const char* end = entry->second.data() + entry->second.size();
  const auto [stop, status] = std::from_chars(entry->second.data(), end, declared);
  if (status != std::errc() || stop != end || declared < needed || declared > kMaxIds) {
    fail(file.where(), "expected the metadata '", name, "' to be a number from ", needed,
         " (what the data need) to ", kMaxIds, ", got '", entry->second, "'");
  }
  return declared;
}

}  // namespace

void normalize_by_training_pixels(Dataset& train, Dataset& test) {
  const auto channels = static_cast<size_t>(train.sample_shape[0]);
  std::vector<uint64_t> sums(channels, 0),
      squares(channels, 0);  // exact: at most 2^40 pixels of at most 255² each
  for (size_t i = 0; i < train.pixels.size(); i += channels) {
    for (size_t c = 0; c < channels; ++c) {
      const uint64_t pixel = train.pixels[i + c];
      sums[c] += pixel;
      squares[c] += pixel * pixel;
    }
  }
  const auto count = static_cast<double>(train.pixels.size() / channels);
  train.mean.clear();
  train.stddev.clear();
  for (size_t c = 0; c < channels; ++c) {
    const double mean = static_cast<double>(sums[c]) / count;
    const double variance = static_cast<double>(squares[c]) / count - mean * mean;
    train.mean.push_back(static_cast<float>(mean / 255));
    train.stddev.push_back(variance > 1e-3 ? static_cast<float>(std::sqrt(variance) / 255) : 1.0f);
  }
  test.mean = train.mean;
  test.stddev = train.stddev;
}

LoadedData tensor_datasets(const SafetensorsFile& train_file, const SafetensorsFile& test_file) {
  LoadedData loaded{read_part(train_file), read_part(test_file)};
  Dataset &train = loaded.train, &test = loaded.test;
  if (train.kind != test.kind || train.sample_shape != test.sample_shape) {
    fail(test_file.where(), "expected inputs of the training file's kind and shape, ",
         shape_text(train.sample_shape), " per sample, got ", shape_text(test.sample_shape));
  }
  train.num_classes = test.num_classes = id_count(
      "num_classes", train_file, std::max(largest(train.labels), largest(test.labels)) + 1);
  if (train.kind == Kind::kTokens) {
    train.vocabulary = test.vocabulary = id_count(
        "vocabulary", train_file, std::max(largest(train.tokens), largest(test.tokens)) + 1);
  }
  if (train.kind == Kind::kImage) normalize_by_training_pixels(train, test);
  read_owners(train_file, test_file, train, test);
  return loaded;
}

LoadedData load_safetensors(const DataOptions& options, Key) {
  const auto paths =
      find_data_files(options.name, options.root, {"train.safetensors", "test.safetensors"},
                      "write them as docs/data.md shows and set data.root to their folder");
  const auto read = [](const std::filesystem::path& path) {
    return SafetensorsFile::parse(read_file_maybe_gzip(path), path.string());
  };
  return tensor_datasets(read(paths[0]), read(paths[1]));
}

Dataset load_samples(const std::filesystem::path& path, const Dataset& like) {
  const auto file = SafetensorsFile::parse(read_file_maybe_gzip(path), path.string());
  Dataset samples = read_part(file);
  const auto kind_name = [](Kind kind) {
    return kind == Kind::kImage ? "uint8 images" : kind == Kind::kFloat ? "values" : "tokens";
  };
  if (samples.kind != like.kind || samples.sample_shape != like.sample_shape) {
    fail(file.where(), "the model was made for ", kind_name(like.kind), " of shape ",
         shape_text(like.sample_shape), " per sample, but the inputs are ",
         kind_name(samples.kind), " of ", shape_text(samples.sample_shape));
  }
  if (const int64_t most = largest(samples.labels); most >= like.num_classes) {
    fail(file.where(), "the model knows the classes 0 to ", like.num_classes - 1,
         ", but the labels go up to ", most);
  }
  if (const int64_t most = largest(samples.tokens);
      samples.kind == Kind::kTokens && most >= like.vocabulary) {
    fail(file.where(), "the model knows the tokens 0 to ", like.vocabulary - 1,
         ", but the inputs go up to ", most);
  }
  samples.num_classes = like.num_classes;
  samples.vocabulary = like.vocabulary;
  samples.mean = like.mean;
  samples.stddev = like.stddev;
  samples.validate();
  return samples;
}

}  // namespace espalier::data
