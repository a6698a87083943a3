#include "espalier/data/cifar.h"

#include <gmock/gmock.h>
#include <png.h>

#include "espalier/data/cifar_png.h"
#include "espalier/data/test_files.h"

namespace espalier::data {
namespace {

using ::testing::HasSubstr;

uint8_t planar_value(size_t image, size_t channel, size_t pixel) {
  return static_cast<uint8_t>(image * 101 + channel * 53 + pixel * 7);
}

Bytes cifar_bytes(const std::vector<Bytes>& labels) {
  Bytes bytes;
  for (size_t i = 0; i < labels.size(); ++i) {
    bytes.insert(bytes.end(), labels[i].begin(), labels[i].end());
    for (size_t c = 0; c < 3; ++c) {
      for (size_t pixel = 0; pixel < kCifarPlane; ++pixel)
        bytes.push_back(planar_value(i, c, pixel));
    }
  }
  return bytes;
}

TEST(Cifar, PlanesBecomeInterleavedPixels) {
  Dataset dataset;
  append_cifar({1, 10}, cifar_bytes({{3}, {9}}), "x", dataset);
  EXPECT_EQ(dataset.labels, (std::vector<int32_t>{3, 9}));
  ASSERT_EQ(dataset.pixels.size(), 2 * 3 * kCifarPlane);
  for (size_t i = 0; i < 2; ++i) {
    for (size_t pixel = 0; pixel < kCifarPlane; ++pixel) {
      for (size_t c = 0; c < 3; ++c) {
        ASSERT_EQ(dataset.pixels[(i * kCifarPlane + pixel) * 3 + c], planar_value(i, c, pixel));
      }
    }
  }
}

TEST(Cifar, BadFilesAreErrors) {
  Dataset dataset;
  Bytes bytes = cifar_bytes({{3}, {10}});
  EXPECT_EQ(error_of([&] {
              append_cifar({1, 10}, bytes, "x", dataset);
            }),
            "[x] expected labels in [0, 10), got 10 (image 1)");
  bytes.pop_back();
  EXPECT_THAT(error_of([&] {
                append_cifar({1, 10}, bytes, "x", dataset);
              }),
              HasSubstr("multiple of 3073 bytes"));
  EXPECT_THAT(error_of([&] { append_cifar({1, 10}, {}, "x", dataset); }), HasSubstr("got 0"));
}

TEST(Cifar, LoadsBothSets) {
  const TestFolder folder;
  DataOptions options;
  options.root = folder.root();
  options.name = "cifar10";
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }),
              HasSubstr("run `espalier data fetch cifar10`"));
  for (uint8_t i = 1; i <= 5; ++i) {
    folder.write(concat("cifar-10-batches-bin/data_batch_", int{i}, ".bin"), cifar_bytes({{i}}));
  }
  folder.write("cifar-10-batches-bin/test_batch.bin", cifar_bytes({{7}, {8}}));
  const DataSource ten = load_dataset(options, Key(1));
  EXPECT_EQ(ten.train->labels, (std::vector<int32_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(ten.test->labels, (std::vector<int32_t>{7, 8}));
  EXPECT_EQ(ten.train->sample_shape, (std::vector<int64_t>{3, 32, 32}));

  options.name = "cifar100";
  folder.write("train.bin", cifar_bytes({{4, 99}, {5, 0}}));
  folder.write("test.bin", cifar_bytes({{6, 50}}));
  const DataSource hundred = load_dataset(options, Key(1));
  EXPECT_EQ(hundred.train->labels, (std::vector<int32_t>{99, 0}));
  EXPECT_EQ(hundred.test->labels, (std::vector<int32_t>{50}));
  EXPECT_EQ(hundred.train->num_classes, 100);
}

TEST(Cifar, FromPngRows) {
  const TestFolder folder;
  Bytes rows;
  for (size_t i = 0; i < 2; ++i) {
    for (size_t pixel = 0; pixel < kCifarPlane; ++pixel) {
      for (size_t c = 0; c < 3; ++c) rows.push_back(planar_value(i, c, pixel));
    }
  }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = kCifarPlane;
  image.height = 2;
  image.format = PNG_FORMAT_RGB;
  const auto path = folder.path() / "batch.png";
  ASSERT_NE(png_image_write_to_file(&image, path.c_str(), 0, rows.data(), 0, nullptr), 0);
  const std::vector<uint8_t> labels = {3, 9};
  EXPECT_EQ(cifar10_from_png(path, labels), cifar_bytes({{3}, {9}}));
  EXPECT_THAT(error_of([&] { cifar10_from_png(path, std::span(labels).first(1)); }),
              HasSubstr("1024 × 1 pixels"));
  folder.write_text("bad.png", "no PNG");
  EXPECT_THAT(error_of([&] { cifar10_from_png(folder.path() / "bad.png", labels); }),
              HasSubstr("cannot be read"));

  folder.write_text("labels.json", "[3, 9]");
  EXPECT_EQ(read_cifar10_labels(folder.path() / "labels.json"), labels);
  folder.write_text("labels.json", "[3, 10]");
  EXPECT_THAT(error_of([&] { read_cifar10_labels(folder.path() / "labels.json"); }),
              HasSubstr("got 10"));
}

}  // namespace
}  // namespace espalier::data
