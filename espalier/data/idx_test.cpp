#include "espalier/data/idx.h"

#include <gmock/gmock.h>
#include <zlib.h>

#include "espalier/data/test_files.h"

namespace espalier::data {
namespace {

using ::testing::HasSubstr;

Bytes idx_bytes(const std::vector<uint8_t>& shape, const std::vector<uint8_t>& values) {
  Bytes bytes = {0, 0, 8, static_cast<uint8_t>(shape.size())};
  for (const uint8_t dimension : shape) bytes.insert(bytes.end(), {0, 0, 0, dimension});
  bytes.insert(bytes.end(), values.begin(), values.end());
  return bytes;
}

Bytes gzip(const Bytes& data) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  Bytes out(data.size() + 100);
  stream.next_in = const_cast<uint8_t*>(data.data());
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

const Bytes kImages = idx_bytes({2, 2, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
const Bytes kLabels = idx_bytes({2}, {1, 9});

TEST(Idx, ReadsImagesAndLabels) {
  const Dataset dataset =
      idx_dataset({.name = "x", .mean = 0.5f, .stddev = 0.25f}, kImages, kLabels, "i", "l");
  dataset.validate();
  EXPECT_EQ(dataset.sample_shape, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(dataset.labels, (std::vector<int32_t>{1, 9}));
  EXPECT_THAT(dataset.pixels, ::testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12));
}

TEST(Idx, TransposedImagesAndLabelsFromOne) {
  const IdxFormat letters{.name = "x", .num_classes = 9, .first_label = 1, .transposed = true};
  const Dataset dataset = idx_dataset(letters, kImages, kLabels, "i", "l");
  EXPECT_EQ(dataset.sample_shape, (std::vector<int64_t>{1, 3, 2}));
  EXPECT_THAT(dataset.pixels, ::testing::ElementsAre(1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12));
  EXPECT_EQ(dataset.labels, (std::vector<int32_t>{0, 8}));
}

TEST(Idx, BadFilesAreErrors) {
  const auto message = [](const Bytes& images, const Bytes& labels, int first_label = 0) {
    return error_of([&] {
      idx_dataset({.name = "x", .first_label = first_label}, images, labels, "images", "labels");
    });
  };
  Bytes bad = kImages;
  bad.pop_back();
  EXPECT_EQ(message(bad, kLabels), "[images] truncated: expected 12 more bytes, got 11");
  bad.push_back(0);
  bad.push_back(0);
  EXPECT_THAT(message(bad, kLabels), HasSubstr("1 bytes after"));
  bad = kImages;
  bad[0] = 31;
  EXPECT_THAT(message(bad, kLabels), HasSubstr("not an IDX file"));
  bad = kImages;
  bad[2] = 13;
  EXPECT_THAT(message(bad, kLabels), HasSubstr("type 13"));
  EXPECT_THAT(message(kLabels, kLabels), HasSubstr("expected 3 dimensions, got 1"));
  EXPECT_THAT(message(kImages, idx_bytes({3}, {1, 2, 3})),
              HasSubstr("a label for each of 2 images, got 3"));
  EXPECT_THAT(message(kImages, idx_bytes({2}, {1, 10})),
              HasSubstr("expected labels in [0, 10), got 10 (sample 1)"));
  EXPECT_THAT(message(kImages, idx_bytes({2}, {0, 3}), 1),
              HasSubstr("expected labels in [1, 11), got 0 (sample 0)"));
  bad = {0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
  EXPECT_THAT(message(bad, kLabels), HasSubstr("impossibly large"));
  EXPECT_THAT(message({}, kLabels), HasSubstr("truncated"));
}

TEST(Idx, LoadsPlainAndGzippedFiles) {
  const TestFolder folder;
  folder.write("train-images-idx3-ubyte.gz", gzip(kImages));
  folder.write("train-labels-idx1-ubyte.gz", gzip(kLabels));
  folder.write("t10k-images-idx3-ubyte", kImages);
  DataOptions options;
  options.name = "mnist";
  options.root = folder.root();
  const std::string missing = error_of([&] { load_dataset(options, Key(1)); });
  EXPECT_THAT(missing, HasSubstr("t10k-labels-idx1-ubyte"));
  EXPECT_THAT(missing, HasSubstr(folder.root() + "; run `espalier data fetch mnist`"));
  folder.write("t10k-labels-idx1-ubyte", kLabels);
  options.max_test_samples = 1;
  const DataSource source = load_dataset(options, Key(1));
  EXPECT_EQ(source.train->size(), 2u);
  EXPECT_EQ(source.test->labels, (std::vector<int32_t>{1}));
  EXPECT_EQ(source.test->pixels.size(), 6u);
  EXPECT_FLOAT_EQ(source.train->mean[0], 0.1307f);
  EXPECT_TRUE(source.train->fill.empty());
  options.normalize = "unit";
  const DataSource unit = load_dataset(options, Key(1));
  EXPECT_EQ(unit.test->mean, (std::vector<float>{0}));
  EXPECT_EQ(unit.test->stddev, (std::vector<float>{1}));
  EXPECT_FLOAT_EQ(unit.train->fill[0], 0.1307f);
  options.normalize = "none";
  EXPECT_FLOAT_EQ(load_dataset(options, Key(1)).train->fill[0], 255 * 0.1307f);
  // A model's own is stronger.
  const Normalization models = {{0.25f}, {2}};
  const DataSource seen = load_dataset(options, Key(1), &models);
  EXPECT_EQ(seen.test->mean, models.mean);
  EXPECT_EQ(seen.test->stddev, models.stddev);
  options.normalize = "dataset";
  Bytes damaged = gzip(kImages);
  damaged.resize(damaged.size() / 2);
  folder.write("train-images-idx3-ubyte.gz", damaged);
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }),
              HasSubstr("train-images-idx3-ubyte.gz"));
}

TEST(Idx, EmnistSplits) {
  const TestFolder folder;
  for (const char* part : {"train", "test"}) {
    folder.write(std::string("emnist-letters-") + part + "-images-idx3-ubyte", kImages);
    folder.write(std::string("emnist-letters-") + part + "-labels-idx1-ubyte", kLabels);
  }
  DataOptions options;
  options.name = "emnist";
  options.root = folder.root();
  options.split = "letters";
  const DataSource source = load_dataset(options, Key(1));
  EXPECT_EQ(source.train->num_classes, 26);
  EXPECT_EQ(source.train->labels, (std::vector<int32_t>{0, 8}));
  EXPECT_EQ(source.train->pixels[1], 4);
  options.split = "byclass";
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }),
              HasSubstr("emnist-byclass-train-images-idx3-ubyte"));
  options.split = "letter";
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }),
              HasSubstr("did you mean 'letters'"));
}

TEST(LoadDataset, UnknownNamesAndUsualPlaces) {
  DataOptions options;
  options.name = "fashon-mnist";
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }),
              HasSubstr("did you mean 'fashion-mnist'"));
  const auto folders = data_folders("fashion-mnist", "");
  EXPECT_EQ(folders.back(), "/usr/share/datasets/fashion-mnist");
  EXPECT_THAT(folders, ::testing::Contains("data/fashion-mnist"));
  EXPECT_THAT(data_folders("mnist", "elsewhere"), ::testing::ElementsAre("elsewhere"));
}

TEST(LoadDataset, FashionMnistOfTheDistribution) {
  if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")) {
    GTEST_SKIP() << "needs the package dataset-fashion-mnist";
  }
  DataOptions options;
  options.root = "/usr/share/datasets/fashion-mnist";
  const DataSource source = load_dataset(options, Key(1));
  EXPECT_EQ(source.train->size(), 60000u);
  EXPECT_EQ(source.test->size(), 10000u);
  EXPECT_EQ(std::vector<int32_t>(source.train->labels.begin(), source.train->labels.begin() + 6),
            (std::vector<int32_t>{9, 0, 0, 3, 0, 2}));
  double sum = 0;
  for (const uint8_t pixel : source.train->pixels) sum += pixel;
  EXPECT_NEAR(sum / 255 / static_cast<double>(source.train->pixels.size()), source.train->mean[0],
              1e-4);
}

}  // namespace
}  // namespace espalier::data
