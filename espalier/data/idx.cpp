#include "espalier/data/idx.h"

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::data {

namespace {

uint32_t big_endian(std::span<const uint8_t> bytes) {
  return (uint32_t{bytes[0]} << 24) | (uint32_t{bytes[1]} << 16) | (uint32_t{bytes[2]} << 8) |
         uint32_t{bytes[3]};
}

// The four files of MNIST's layout: `prefix` is empty or "emnist-letters-".
LoadedData load_idx(const IdxFormat& format, const DataOptions& options, const std::string& train,
                    const std::string& test, std::string_view advice) {
  const auto paths = find_data_files(options.name, options.root,
                                     {train + "-images-idx3-ubyte", train + "-labels-idx1-ubyte",
                                      test + "-images-idx3-ubyte", test + "-labels-idx1-ubyte"},
                                     advice);
  const auto part = [&](size_t first) {
    const Bytes images = read_file_maybe_gzip(paths[first]),
                labels = read_file_maybe_gzip(paths[first + 1]);
    return idx_dataset(format, images, labels, paths[first].string(), paths[first + 1].string());
  };
  return {part(0), part(2), {}, paths[0].parent_path()};
}

}  // namespace

IdxArray parse_idx(std::span<const uint8_t> bytes, size_t dimensions, std::string_view where) {
  ByteReader reader(bytes, where);
  const auto magic = reader.take(4);
  if (magic[0] != 0 || magic[1] != 0) {
    fail(where, "this is not an IDX file: expected two zero bytes first, got ", int{magic[0]}, " ",
         int{magic[1]});
  }
  if (magic[2] != 8) fail(where, "expected IDX values of type 8 (uint8), got type ", int{magic[2]});
  if (magic[3] != dimensions)
    fail(where, "expected ", dimensions, " dimensions, got ", int{magic[3]});
  IdxArray array;
  uint64_t values = 1;
  for (size_t i = 0; i < dimensions; ++i) {
    array.shape.push_back(big_endian(reader.take(4)));
    if (array.shape.back() == 0) fail(where, "dimension ", i, " of the file is zero");
    if (values > (uint64_t{1} << 40) / array.shape.back())
      fail(where, "the file's shape is impossibly large");
    values *= array.shape.back();
  }
  array.values = reader.take(values);
  if (reader.remaining() != 0) fail(where, reader.remaining(), " bytes after the last value");
  return array;
}

Dataset idx_dataset(const IdxFormat& format, std::span<const uint8_t> images,
                    std::span<const uint8_t> labels, std::string_view where_images,
                    std::string_view where_labels) {
  const IdxArray pixels = parse_idx(images, 3, where_images);
  const IdxArray classes = parse_idx(labels, 1, where_labels);
  if (pixels.shape[0] != classes.shape[0]) {
    fail(where_labels, "expected a label for each of ", pixels.shape[0], " images, got ",
         classes.shape[0]);
  }
  Dataset dataset;
  dataset.name = format.name;
  dataset.num_classes = format.num_classes;
  dataset.mean = {format.mean};
  dataset.stddev = {format.stddev};
  const size_t rows = pixels.shape[1], columns = pixels.shape[2];
  if (format.transposed) {
    dataset.sample_shape = {1, static_cast<int64_t>(columns), static_cast<int64_t>(rows)};
    dataset.pixels.resize(pixels.values.size());
    uint8_t* out = dataset.pixels.data();
    for (size_t i = 0; i < pixels.shape[0]; ++i) {
      const uint8_t* image = pixels.values.data() + i * rows * columns;
      for (size_t y = 0; y < columns; ++y) {
        for (size_t x = 0; x < rows; ++x) *out++ = image[x * columns + y];
      }
    }
  } else {
    dataset.sample_shape = {1, static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
    dataset.pixels.assign(pixels.values.begin(), pixels.values.end());
  }
  dataset.labels.reserve(classes.values.size());
  for (size_t i = 0; i < classes.values.size(); ++i) {
    const int label = classes.values[i] - format.first_label;
    if (label < 0 || label >= format.num_classes) {
      fail(where_labels, "expected labels in [", format.first_label, ", ",
           format.first_label + format.num_classes, "), got ", int{classes.values[i]}, " (sample ",
           i, ")");
    }
    dataset.labels.push_back(label);
  }
  return dataset;
}

LoadedData load_mnist(const DataOptions& options, Key) {
  return load_idx({.name = "mnist", .mean = 0.1307f, .stddev = 0.3081f}, options, "train", "t10k",
                  "run `espalier data fetch mnist`");
}

LoadedData load_fashion_mnist(const DataOptions& options, Key) {
  return load_idx(
      {.name = "fashion-mnist", .mean = 0.2860f, .stddev = 0.3530f}, options, "train", "t10k",
      "run `apt-get install dataset-fashion-mnist` or `espalier data fetch fashion-mnist`");
}

LoadedData load_emnist(const DataOptions& options, Key) {
  IdxFormat format{.name = "emnist", .transposed = true, .mean = 0.1751f, .stddev = 0.3332f};
  if (options.split == "byclass")
    format.num_classes = 62;
  else if (options.split == "balanced" || options.split == "bymerge")
    format.num_classes = 47;
  else if (options.split == "letters")
    format.num_classes = 26, format.first_label = 1;
  else if (options.split != "digits" && options.split != "mnist") {
    fail("data/emnist",
         unknown_name_message("split", options.split,
                              {"balanced", "byclass", "bymerge", "digits", "letters", "mnist"}));
  }
  const std::string prefix = "emnist-" + options.split;
  return load_idx(format, options, prefix + "-train", prefix + "-test",
                  "run `espalier data fetch emnist`");
}

}  // namespace espalier::data
