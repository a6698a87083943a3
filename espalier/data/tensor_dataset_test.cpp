#include "espalier/data/tensor_dataset.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "espalier/data/handed_over.h"
#include "espalier/data/test_files.h"

namespace espalier::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Owns the values of the tensors of one file.
class FileBuilder {
 public:
  template <class T>
  FileBuilder& add(const std::string& name, DType dtype, std::vector<int64_t> shape,
                   const std::vector<T>& values) {
    auto& bytes = storage_.emplace_back(std::make_shared<Bytes>());
    ByteWriter(*bytes).array(std::span<const T>(values));
    tensors_.push_back({name, dtype, std::move(shape), *bytes});
    return *this;
  }
  FileBuilder& meta(const std::string& key, const std::string& value) {
    metadata_[key] = value;
    return *this;
  }
  Bytes bytes() const { return write_safetensors(tensors_, metadata_); }
  SafetensorsFile file(std::string_view where) const {
    return SafetensorsFile::parse(bytes(), where);
  }

 private:
  std::vector<std::shared_ptr<Bytes>> storage_;
  std::vector<TensorData> tensors_;
  std::map<std::string, std::string> metadata_;
};

FileBuilder images(const std::vector<int64_t>& labels) {
  const auto count = static_cast<int64_t>(labels.size());
  std::vector<uint8_t> pixels(static_cast<size_t>(count) * 12);
  std::iota(pixels.begin(), pixels.end(), uint8_t{0});
  FileBuilder builder;
  builder.add("inputs", DType::kU8, {count, 2, 2, 3}, pixels)
      .add("labels", DType::kI64, {count}, labels);
  return builder;
}

FileBuilder tokens(const std::vector<int32_t>& values, const std::vector<int64_t>& labels) {
  const auto count = static_cast<int64_t>(labels.size());
  FileBuilder builder;
  builder.add("inputs", DType::kI32, {count, static_cast<int64_t>(values.size()) / count}, values)
      .add("labels", DType::kI64, {count}, labels);
  return builder;
}

FileBuilder floats(const std::vector<float>& values, const std::vector<int64_t>& labels) {
  const auto count = static_cast<int64_t>(labels.size());
  FileBuilder builder;
  builder.add("inputs", DType::kF32, {count, static_cast<int64_t>(values.size()) / count}, values)
      .add("labels", DType::kI64, {count}, labels);
  return builder;
}

std::string message(const FileBuilder& train, const FileBuilder& test) {
  return error_of([&] { tensor_datasets(train.file("train"), test.file("test")); });
}

TEST(TensorDataset, ImagesBecomeChannelsLast) {
  const LoadedData loaded = tensor_datasets(images({0, 2}).file("a"), images({4}).file("b"));
  loaded.train.validate();
  loaded.test.validate();
  EXPECT_EQ(loaded.train.sample_shape, (std::vector<int64_t>{2, 2, 3}));
  EXPECT_THAT(loaded.test.pixels, ElementsAre(0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11));
  EXPECT_EQ(loaded.train.num_classes, 5);
  EXPECT_EQ(loaded.test.num_classes, 5);
  // Channel 0 holds 0…5 and 12…17.
  EXPECT_NEAR(loaded.test.mean[0] * 255, 8.5, 1e-4);
  EXPECT_NEAR(loaded.test.stddev[0] * 255, std::sqrt(467.0 / 12), 1e-4);
}

TEST(TensorDataset, FloatsTokensAndOwners) {
  FileBuilder train = floats({1, 2, 3, 4}, {1, 0});
  train.add("client", DType::kI64, {2}, std::vector<int64_t>{70, -5});
  FileBuilder test = floats({5, 6}, {1});
  test.add("client", DType::kI64, {1}, std::vector<int64_t>{9});
  const LoadedData loaded = tensor_datasets(train.file("a"), test.file("b"));
  EXPECT_EQ(loaded.train.kind, Kind::kFloat);
  EXPECT_THAT(loaded.train.floats, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(loaded.train.client_names, (std::vector<std::string>{"-5", "9", "70"}));
  EXPECT_EQ(loaded.train.client_of_sample, (std::vector<uint32_t>{2, 0}));
  EXPECT_EQ(loaded.test.client_of_sample, (std::vector<uint32_t>{1}));

  const LoadedData sequences =
      tensor_datasets(tokens({3, 1, 4, 1}, {1, 0}).file("a"), tokens({9, 2}, {0}).file("b"));
  EXPECT_EQ(sequences.train.kind, Kind::kTokens);
  EXPECT_EQ(sequences.train.vocabulary, 10);
  EXPECT_EQ(sequences.train.tokens, (Values<int32_t>{3, 1, 4, 1}));
  const LoadedData declared = tensor_datasets(
      tokens({3, 1}, {1}).meta("vocabulary", "50").meta("num_classes", "7").file("a"),
      tokens({9, 2}, {0}).file("b"));
  EXPECT_EQ(declared.test.vocabulary, 50);
  EXPECT_EQ(declared.test.num_classes, 7);
}

TEST(TensorDataset, BadFilesAreErrors) {
  const FileBuilder good = floats({1, 2, 3, 4}, {1, 0});
  EXPECT_EQ(message(good, good), "");
  EXPECT_THAT(message(FileBuilder().add("labels", DType::kI64, {1}, std::vector<int64_t>{0}), good),
              HasSubstr("[train] expected a tensor called 'inputs'"));
  EXPECT_THAT(
      message(FileBuilder().add("inputs", DType::kF32, {1, 1}, std::vector<float>{0}), good),
      HasSubstr("'labels'"));
  EXPECT_THAT(
      message(good, images({0})),
      AllOf(HasSubstr("[test] expected inputs of the training file's kind and shape, values "
                      "of [2] per sample"),
            HasSubstr("got uint8 images of [")));
  EXPECT_THAT(message(floats({1, 2}, {-1}), good), HasSubstr("got -1 (sample 0)"));
  EXPECT_THAT(message(floats({1, 2}, {int64_t{1} << 40}), good),
              HasSubstr("expected labels in [0, "));
  EXPECT_THAT(message(tokens({1, -2}, {0}), good), HasSubstr("expected inputs in [0, "));
  EXPECT_THAT(message(tokens({1, 2}, {0}).meta("vocabulary", "2"), tokens({1, 2}, {0})),
              HasSubstr("from 3"));
  FileBuilder bad;
  bad.add("inputs", DType::kF32, {2, 1}, std::vector<float>{0, 1})
      .add("labels", DType::kI64, {1}, std::vector<int64_t>{0});
  EXPECT_THAT(message(bad, good), HasSubstr("expected labels of shape [2]"));
  FileBuilder three;
  three.add("inputs", DType::kI32, {1, 1, 1}, std::vector<int32_t>{0})
      .add("labels", DType::kI64, {1}, std::vector<int64_t>{0});
  EXPECT_THAT(message(three, good), HasSubstr("got I32 [1, 1, 1]"));
  FileBuilder empty;
  empty.add("inputs", DType::kF32, {0, 1}, std::vector<float>{})
      .add("labels", DType::kI64, {0}, std::vector<int64_t>{});
  EXPECT_THAT(message(empty, good), HasSubstr("at least one sample"));
  FileBuilder owners = good;
  owners.add("client", DType::kI64, {1}, std::vector<int64_t>{0});
  EXPECT_THAT(message(owners, good), HasSubstr("expected client of shape [2]"));
}

TEST(TensorDataset, LoadsAFolder) {
  const TestFolder folder;
  DataOptions options;
  options.name = "safetensors";
  options.root = folder.root();
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }), HasSubstr("docs/data.md"));
  folder.write("train.safetensors", images({0, 1}).bytes());
  folder.write("test.safetensors", images({1}).bytes());
  EXPECT_EQ(load_dataset(options, Key(1)).train->labels, (std::vector<int32_t>{0, 1}));
  Bytes cut = images({0, 1}).bytes();
  cut.resize(cut.size() - 3);
  folder.write("train.safetensors", cut);
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }), HasSubstr("train.safetensors]"));
}

TEST(TensorDataset, WhatCanBeNormalized) {
  const TestFolder folder;
  DataOptions options;
  options.name = "safetensors";
  options.root = folder.root();
  const auto refusal = [&](const char* how, const FileBuilder& part) {
    folder.write("train.safetensors", part.bytes());
    folder.write("test.safetensors", part.bytes());
    options.normalize = how;
    return error_of([&] { load_dataset(options, Key(1)); });
  };
  for (const char* how : {"dataset", "unit", "none"}) EXPECT_EQ(refusal(how, images({0, 1})), "");
  EXPECT_EQ(refusal("none", floats({1, 2, 3, 4}, {1, 0})), "");
  EXPECT_EQ(load_dataset(options, Key(1)).train->floats, (Values<float>{1, 2, 3, 4}));
  EXPECT_THAT(refusal("unit", floats({1, 2, 3, 4}, {1, 0})), HasSubstr("used as they are"));
  for (const char* how : {"unit", "none"})
    EXPECT_THAT(refusal(how, tokens({3, 1, 4, 1}, {1, 0})), HasSubstr("tokens are no quantities"));
}

TEST(TensorDataset, AFaultHasAPlace) {
  const FileBuilder good = floats({1, 2, 3, 4}, {1, 0});
  EXPECT_THAT(message(floats({1, 2, 3, NAN}, {0, 1}), good),
              HasSubstr("[train] expected finite float32 values in inputs, got nan (sample 1, "
                        "position 1; 1 of 4 values)"));
  EXPECT_THAT(message(good, floats({1, -INFINITY, NAN, 0}, {0, 1})),
              HasSubstr("[test] expected finite float32 values in inputs, got -inf (sample 0, "
                        "position 1; 2 of 4 values)"));
  FileBuilder images;
  std::vector<double> values(2 * 12, 0.5);
  values[12 + 1 * 6 + 1 * 3 + 2] = 1e300;
  images.add("inputs", DType::kF64, {2, 2, 2, 3}, values)
      .add("labels", DType::kI64, {2}, std::vector<int64_t>{0, 1});
  EXPECT_THAT(message(images, images), HasSubstr("got 1e+300 (sample 1, [1, 1, 2]; 1 of 24"));
  EXPECT_THAT(message(tokens({1, 2, 3, -7}, {0, 1}), good),
              HasSubstr("got -7 (sample 1, position 1); integers of shape (samples, length) are"));
  EXPECT_THAT(message(floats({1, 2, 3, 4}, {1, -1}), good),
              HasSubstr("got -1 (sample 1); labels are class numbers from 0: store (labels + 1)"));
  EXPECT_THAT(message(floats({1, 2, 3, 4}, {0, -100}), good),
              HasSubstr("got -100 (sample 1); labels are class numbers from 0, and samples"));
  EXPECT_THAT(message(tokens({1, 2, 3, 4}, {0, 5}).meta("num_classes", "3"), tokens({1, 2}, {0})),
              HasSubstr("from 6 to 16777216, got '3'; train has 5 in labels (sample 1)"));
  EXPECT_THAT(
      message(tokens({1, 2, 3, 4}, {0, 1}).meta("vocabulary", "5"), tokens({1, 2, 3, 7}, {0, 1})),
      HasSubstr("test has 7 in inputs (sample 1, position 1)"));

  FileBuilder labels;
  labels.add("inputs", DType::kF32, {2, 1}, std::vector<float>{0, 1})
      .add("labels", DType::kF32, {2}, std::vector<float>{0, 1});
  EXPECT_THAT(message(labels, good), HasSubstr("expected labels as integers, got F32; store"));
  FileBuilder one_hot;
  one_hot.add("inputs", DType::kF32, {2, 1}, std::vector<float>{0, 1})
      .add("labels", DType::kI64, {2, 3}, std::vector<int64_t>{0, 1, 0, 1, 0, 0});
  EXPECT_THAT(message(one_hot, good), HasSubstr("labels.argmax(1)"));
  FileBuilder column;
  column.add("inputs", DType::kF32, {2, 1}, std::vector<float>{0, 1})
      .add("labels", DType::kI64, {2, 1}, std::vector<int64_t>{0, 1});
  EXPECT_THAT(message(column, good), HasSubstr("labels.reshape(-1)"));
  FileBuilder gray;
  gray.add("inputs", DType::kU8, {2, 1, 2}, std::vector<uint8_t>{0, 1, 2, 3})
      .add("labels", DType::kI64, {2}, std::vector<int64_t>{0, 1});
  EXPECT_THAT(message(gray, good), HasSubstr("inputs[:, None]"));
  FileBuilder large = floats({1, 2}, {0});
  large.add("client", DType::kU64, {1}, std::vector<uint64_t>{UINT64_MAX});
  EXPECT_THAT(message(large, good), HasSubstr("got 18446744073709551615 (value 0)"));
}

TEST(TensorDataset, SaysWhatItGuesses) {
  const auto notes = [](const FileBuilder& train, const FileBuilder& test) {
    return tensor_datasets(train.file("train"), test.file("test")).notes;
  };
  const FileBuilder good = floats({1, 2, 3, 4}, {1, 0});
  EXPECT_THAT(notes(good, good), testing::IsEmpty());
  EXPECT_THAT(notes(floats({1, 2, 3, 4}, {1, 2}), floats({1, 2}, {2})),
              ElementsAre(HasSubstr("no sample is of class 0, yet the model has an output for each "
                                    "of 3; if labels are numbered from 1, store labels - 1")));
  EXPECT_THAT(notes(floats({1, 2, 3, 4}, {0, 4}), floats({1, 2}, {2})),
              ElementsAre(HasSubstr("no sample is of classes 1 and 3, yet")));
  // Who declares the number knows it.
  EXPECT_THAT(notes(floats({1, 2, 3, 4}, {0, 4}).meta("num_classes", "6"), floats({1, 2}, {2})),
              testing::IsEmpty());
  const auto bytes = [](int64_t length) {
    FileBuilder builder;
    builder
        .add("inputs", DType::kU8, {1, length}, std::vector<uint8_t>(static_cast<size_t>(length)))
        .add("labels", DType::kI64, {1}, std::vector<int64_t>{0});
    return builder;
  };
  EXPECT_THAT(
      notes(bytes(144), bytes(144)),
      ElementsAre(HasSubstr("read as token sequences; store pixels as (samples, 1, 12, 12)")));
  EXPECT_THAT(notes(bytes(27), bytes(27)), ElementsAre(HasSubstr("(samples, 3, 3, 3)")));
  EXPECT_THAT(notes(bytes(5), bytes(5)), ElementsAre(HasSubstr("(samples, channels, height")));
  EXPECT_THAT(notes(tokens({0, 1, 2, 3}, {0, 1}), tokens({1, 2}, {1})), testing::IsEmpty());
  EXPECT_THAT(notes(tokens({0, 1, 2000, 12}, {0, 1}), tokens({1, 2}, {1})),
              ElementsAre(HasSubstr("of which only 5 of 2001 occur")));
}

TEST(TensorDataset, PartsOfTwoKindsThatAreHandedOverAreNamed) {
  FileBuilder values;
  values.add("inputs", DType::kF32, {1, 2, 2, 3}, std::vector<float>(12))
      .add("labels", DType::kI64, {1}, std::vector<int64_t>{0});
  const HandedOver mixed({tensor_datasets(images({0}).file("a"), images({0}).file("b")).train,
                          tensor_datasets(values.file("c"), values.file("d")).test});
  DataOptions options;
  options.name = "memory";
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }),
              HasSubstr("uint8 images of [2, 2, 3] and values of [2, 2, 3]"));
}

}  // namespace
}  // namespace espalier::data
