#include "espalier/data/tensor_dataset.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/data/notes.h"

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

// "sample 17" of labels, "sample 17, position 3" of sequences, "sample 17, [0, 3, 5]" of images:
// the place of a value in a tensor whose first dimension counts samples.
std::string place_text(const TensorView& tensor, size_t index) {
  size_t size = 1;
  for (size_t d = 1; d < tensor.shape.size(); ++d) size *= static_cast<size_t>(tensor.shape[d]);
  const std::string sample = concat("sample ", index / size);
  if (tensor.shape.size() == 1) return sample;
  if (tensor.shape.size() == 2) return concat(sample, ", position ", index % size);
  std::vector<int64_t> position(tensor.shape.begin() + 1, tensor.shape.end());
  size_t rest = index % size;
  for (size_t d = position.size(); d-- > 0;) {
    const auto extent = static_cast<size_t>(position[d]);
    position[d] = static_cast<int64_t>(rest % extent);
    rest /= extent;
  }
  return concat(sample, ", ", shape_text(position));
}

// What to do about ids that are none: labels of two signs, measured values taken for tokens, …
std::string id_advice(const std::string& name, const std::vector<int64_t>& values) {
  if (name == "inputs") {
    return "integers of shape (samples, length) are token sequences; store measured values as "
           "float32";
  }
  const bool signs = std::all_of(values.begin(), values.end(),
                                 [](int64_t value) { return value == -1 || value == 1; });
  if (signs) return "labels are class numbers from 0: store (labels + 1) // 2";
  return "labels are class numbers from 0, and samples without a class are left out";
}

template <class Ids>
void read_ids(const TensorView& tensor, const std::string& name, const SafetensorsFile& file,
              Ids& ids) {
  if (is_floating(tensor.dtype)) {
    fail(file.where(), "expected ", name, " as integers, got ", dtype_name(tensor.dtype),
         "; store ", name, ".astype(np.int64)");
  }
  const auto values = tensor.as_int64(file.where() + ", " + name);
  ids.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= kMaxIds) {
      fail(file.where(), "expected ", name, " in [0, ", kMaxIds, "), got ", values[i], " (",
           place_text(tensor, i), "); ", id_advice(name, values));
    }
    ids[i] = static_cast<int32_t>(values[i]);
  }
}

void check_length(const TensorView& tensor, const std::string& name, int64_t samples,
                  const SafetensorsFile& file) {
  if (tensor.shape == std::vector<int64_t>{samples}) return;
  const bool rows = tensor.shape.size() == 2 && tensor.shape[0] == samples;
  const char* advice = !rows                  ? ""
                       : tensor.shape[1] == 1 ? ".reshape(-1)"
                                              : ".argmax(1), if these are classes as one-hot rows";
  fail(file.where(), "expected ", name, " of shape [", samples,
       "] (one per sample of inputs), got ", shape_text(tensor.shape),
       rows ? concat("; store ", name, advice) : "");
}

void check_finite(const TensorView& inputs, std::span<const float> values,
                  const SafetensorsFile& file) {
  if (all_finite(values)) return;
  const auto finite = [](float value) { return std::isfinite(value); };
  const auto first =
      static_cast<size_t>(std::find_if_not(values.begin(), values.end(), finite) - values.begin());
  const auto count = std::count_if(values.begin(), values.end(),
                                   [](float value) { return !std::isfinite(value); });
  fail(file.where(), "expected finite float32 values in inputs, got ", inputs.value_text(first),
       " (", place_text(inputs, first), "; ", count, " of ", values.size(), " values)");
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

// What to do about inputs of no known kind.
std::string unread_advice(const TensorView& inputs) {
  if (inputs.shape.size() == 1) return "; a single value per sample is inputs.reshape(-1, 1)";
  if (is_floating(inputs.dtype)) return "";
  if (inputs.dtype == DType::kU8 && inputs.shape.size() == 3)
    return "; gray images have one channel: inputs[:, None]";
  return "; store measured values as float32";
}

// What integers of two dimensions may have been meant to be.
void note_tokens(const Dataset& train, const Dataset& test, DType dtype, bool declared,
                 std::vector<std::string>& notes) {
  const int64_t length = train.sample_shape[0];
  const auto square = [](int64_t pixels) {
    const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(pixels))));
    return side > 1 && side * side == pixels ? side : 0;
  };
  if (dtype == DType::kU8) {
    const int64_t gray = square(length), color = length % 3 == 0 ? square(length / 3) : 0;
    const std::string shape = gray > 0    ? concat("1, ", gray, ", ", gray)
                              : color > 0 ? concat("3, ", color, ", ", color)
                                          : "channels, height, width";
    notes.push_back(concat("[data] uint8 inputs of shape (samples, ", length,
                           ") are read as token sequences; store pixels as (samples, ", shape,
                           ") and other values as float32"));
    return;
  }
  if (declared) return;
  std::vector<uint8_t> known(static_cast<size_t>(train.vocabulary), 0);
  for (const Dataset* part : {&train, &test})
    for (const int32_t token : part->tokens) known[static_cast<size_t>(token)] = 1;
  const auto occur = std::count(known.begin(), known.end(), 1);
  if (2 * occur >= train.vocabulary) return;
  notes.push_back(concat("[data] integers of shape (samples, ", length,
                         ") are read as sequences of tokens, of which only ", occur, " of ",
                         train.vocabulary, " occur; store measured values as float32"));
}

// Class numbers below the largest one that nothing is of.
void note_gaps(const Dataset& train, const Dataset& test, std::vector<std::string>& notes) {
  std::vector<uint8_t> known(static_cast<size_t>(train.num_classes), 0);
  for (const Dataset* part : {&train, &test})
    for (const int32_t label : part->labels) known[static_cast<size_t>(label)] = 1;
  std::vector<int64_t> absent;
  for (size_t c = 0; c < known.size(); ++c) {
    if (known[c] == 0) absent.push_back(static_cast<int64_t>(c));
  }
  if (absent.empty()) return;
  const bool from_one = absent == std::vector<int64_t>{0};
  notes.push_back(concat("[data] no sample is of ", class_list(absent, train.num_classes),
                         ", yet the model has an output for each of ", train.num_classes,
                         from_one ? "; if labels are numbered from 1, store labels - 1"
                                  : "; number the classes 0, 1, 2, … in both files alike"));
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
  read_ids(labels, "labels", file, dataset.labels);
  if (inputs.dtype == DType::kU8 && shape.size() == 4) {
    dataset.kind = Kind::kImage;
    read_images(inputs, dataset);
  } else if (is_floating(inputs.dtype) && shape.size() >= 2) {
    dataset.kind = Kind::kFloat;
    dataset.floats = inputs.as_float(file.where());
    check_finite(inputs, dataset.floats, file);
  } else if (!is_floating(inputs.dtype) && shape.size() == 2) {
    dataset.kind = Kind::kTokens;
    read_ids(inputs, "inputs", file, dataset.tokens);
  } else {
    fail(file.where(),
         "expected inputs as uint8 (samples, channels, height, width), floating point (samples, …) "
         "or integers (samples, length), got ",
         dtype_name(inputs.dtype), " ", shape_text(shape), unread_advice(inputs));
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

// The ids in one tensor of a file.
struct Ids {
  const SafetensorsFile& file;
  std::string tensor;
  std::span<const int32_t> values;
};

// Where the largest of them is.
size_t largest(const Ids& ids) {
  return static_cast<size_t>(std::max_element(ids.values.begin(), ids.values.end()) -
                             ids.values.begin());
}

// The number of classes or tokens: what both parts need, or what the training file declares.
int64_t id_count(const std::string& name, const Ids& train, const Ids& test) {
  const auto value = [](const Ids& ids) { return ids.values[largest(ids)]; };
  const Ids& needing = value(test) > value(train) ? test : train;
  const int64_t needed = int64_t{value(needing)} + 1;
  const SafetensorsFile& file = train.file;
  const auto entry = file.metadata().find(name);
  if (entry == file.metadata().end()) return needed;
  int64_t declared = 0;
  const char* end = entry->second.data() + entry->second.size();
  const auto [stop, status] = std::from_chars(entry->second.data(), end, declared);
  if (status != std::errc() || stop != end || declared < needed || declared > kMaxIds) {
    fail(file.where(), "expected the metadata '", name, "' to be a number from ", needed, " to ",
         kMaxIds, ", got '", entry->second, "'; ", needing.file.where(), " has ", needed - 1,
         " in ", needing.tensor, " (",
         place_text(*needing.file.find(needing.tensor), largest(needing)), ")");
  }
  return declared;
}

}  // namespace

const char* kind_name(Kind kind) {
  return kind == Kind::kImage ? "uint8 images" : kind == Kind::kFloat ? "values" : "tokens";
}

void normalize_by_training_pixels(Dataset& train, Dataset& test) {
  const auto channels = static_cast<size_t>(train.sample_shape[0]);
  std::vector<uint64_t> sums(channels, 0),
      squares(channels, 0);  // exact: at most 2^40 pixels of at most 255² each
  const Values<uint8_t>& pixels = train.pixels;
  for (size_t i = 0; i < pixels.size(); i += channels) {
    for (size_t c = 0; c < channels; ++c) {
      const uint64_t pixel = pixels[i + c];
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
         kind_name(train.kind), " of ", shape_text(train.sample_shape), " per sample, got ",
         kind_name(test.kind), " of ", shape_text(test.sample_shape));
  }
  train.num_classes = test.num_classes = id_count(
      "num_classes", {train_file, "labels", train.labels}, {test_file, "labels", test.labels});
  if (!train_file.metadata().contains("num_classes")) note_gaps(train, test, loaded.notes);
  if (train.kind == Kind::kTokens) {
    train.vocabulary = test.vocabulary =
        id_count("vocabulary", {train_file, "inputs", std::as_const(train.tokens)},
                 {test_file, "inputs", std::as_const(test.tokens)});
    note_tokens(train, test, required(train_file, "inputs").dtype,
                train_file.metadata().contains("vocabulary"), loaded.notes);
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
  LoadedData loaded = tensor_datasets(read(paths[0]), read(paths[1]));
  loaded.folder = paths[0].parent_path();
  return loaded;
}

Dataset load_samples(const std::filesystem::path& path, const Dataset& like) {
  const auto file = SafetensorsFile::parse(read_file_maybe_gzip(path), path.string());
  Dataset samples = read_part(file);
  if (samples.kind != like.kind || samples.sample_shape != like.sample_shape) {
    fail(file.where(), "the model was made for ", kind_name(like.kind), " of shape ",
         shape_text(like.sample_shape), " per sample, but the inputs are ", kind_name(samples.kind),
         " of ", shape_text(samples.sample_shape));
  }
  const auto check = [&](const Ids& ids, int64_t known, const char* what) {
    const size_t most = largest(ids);
    if (ids.values[most] < known) return;
    fail(file.where(), "the model knows the ", what, " 0 to ", known - 1, ", but ", ids.tensor,
         " go up to ", ids.values[most], " (", place_text(*file.find(ids.tensor), most), ")");
  };
  check({file, "labels", samples.labels}, like.num_classes, "classes");
  if (samples.kind == Kind::kTokens)
    check({file, "inputs", std::as_const(samples.tokens)}, like.vocabulary, "tokens");
  samples.num_classes = like.num_classes;
  samples.vocabulary = like.vocabulary;
  samples.mean = like.mean;
  samples.stddev = like.stddev;
  samples.validate();
  return samples;
}

}  // namespace espalier::data
