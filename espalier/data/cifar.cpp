#include "espalier/data/cifar.h"

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::data {

namespace {

constexpr size_t kChannels = 3;

Dataset read_part(const CifarFormat& format, const Dataset& description,
                  std::span<const std::filesystem::path> files) {
  Dataset dataset = description;
  // Room for all files at once, so that the pixels are never copied; a packed file only makes it a
  // guess.
  uint64_t bytes = 0;
  for (const auto& file : files) {
    std::error_code unreadable;  // reading will say so
    const auto size = std::filesystem::file_size(file, unreadable);
    if (!unreadable) bytes += size;
  }
  dataset.pixels.reserve(bytes);
  for (const auto& file : files)
    append_cifar(format, read_file_maybe_gzip(file), file.string(), dataset);
  return dataset;
}

// The last file holds the test samples, the others the training samples.
LoadedData read_parts(const CifarFormat& format, Dataset description,
                      std::span<const std::filesystem::path> files) {
  description.num_classes = format.num_classes;
  description.sample_shape = {kChannels, kCifarSide, kCifarSide};
  return {read_part(format, description, files.first(files.size() - 1)),
          read_part(format, description, files.last(1)),
          {},
          files[0].parent_path()};
}

}  // namespace

void append_cifar(const CifarFormat& format, std::span<const uint8_t> bytes, std::string_view where,
                  Dataset& dataset) {
  const size_t record = format.label_bytes + kChannels * kCifarPlane;
  if (bytes.empty() || bytes.size() % record != 0) {
    fail(where, "expected a multiple of ", record, " bytes (one image each), got ", bytes.size(),
         "; the file is truncated or not in CIFAR's binary format");
  }
  const size_t count = bytes.size() / record;
  dataset.labels.reserve(dataset.labels.size() + count);
  const size_t start = dataset.pixels.size();
  dataset.pixels.resize(start + count * kChannels * kCifarPlane);
  uint8_t* out = dataset.pixels.data() + start;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* in = bytes.data() + i * record;
    const int label = in[format.label_bytes - 1];
    if (label >= format.num_classes) {
      fail(where, "expected labels in [0, ", format.num_classes, "), got ", label, " (image ", i,
           ")");
    }
    dataset.labels.push_back(label);
    in += format.label_bytes;
    for (size_t pixel = 0; pixel < kCifarPlane; ++pixel) {
      for (size_t c = 0; c < kChannels; ++c) *out++ = in[c * kCifarPlane + pixel];
    }
  }
}

void write_cifar10_record(uint8_t label, std::span<const uint8_t> image, std::span<uint8_t> out) {
  ESPALIER_CHECK(image.size() == kChannels * kCifarPlane && out.size() == 1 + image.size());
  out[0] = label;
  for (size_t pixel = 0; pixel < kCifarPlane; ++pixel) {
    for (size_t c = 0; c < kChannels; ++c)
      out[1 + c * kCifarPlane + pixel] = image[kChannels * pixel + c];
  }
}

LoadedData load_cifar10(const DataOptions& options, Key) {
  const auto paths = find_data_files(options.name, options.root,
                                     {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                      "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"},
                                     "run `espalier data fetch cifar10`", "cifar-10-batches-bin");
  Dataset description;
  description.name = "cifar10";
  description.mean = {0.4914f, 0.4822f, 0.4465f};
  description.stddev = {0.2470f, 0.2435f, 0.2616f};
  return read_parts({.label_bytes = 1, .num_classes = 10}, std::move(description), paths);
}

LoadedData load_cifar100(const DataOptions& options, Key) {
  const auto paths = find_data_files(options.name, options.root, {"train.bin", "test.bin"},
                                     "run `espalier data fetch cifar100`", "cifar-100-binary");
  Dataset description;
  description.name = "cifar100";
  description.mean = {0.5071f, 0.4865f, 0.4409f};
  description.stddev = {0.2673f, 0.2564f, 0.2762f};
  return read_parts({.label_bytes = 2, .num_classes = 100}, std::move(description), paths);
}

}  // namespace espalier::data
