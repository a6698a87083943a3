#include "espalier/data/synthetic.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "espalier/data/test_files.h"

namespace espalier::data {
namespace {

using ::testing::HasSubstr;

DataOptions small() {
  DataOptions options;
  options.name = "synthetic";
  options.synthetic_train_samples = 400;
  options.synthetic_test_samples = 50;
  return options;
}

DataOptions fedprox(double alpha, double beta) {
  DataOptions options = small();
  options.synthetic_shape = {60};
  options.synthetic_clients = 20;
  options.synthetic_alpha = alpha;
  options.synthetic_beta = beta;
  return options;
}

TEST(Synthetic, ASampleIsAFunctionOfKeyAndIndex) {
  for (const int64_t clients : {0, 20}) {
    DataOptions options = small();
    options.synthetic_shape = {2, 6, 5};
    options.synthetic_clients = clients;
    const DataSource few = load_dataset(options, Key(4));
    options.synthetic_train_samples = 600;
    const DataSource many = load_dataset(options, Key(4));
    EXPECT_TRUE(
        std::equal(few.train->pixels.begin(), few.train->pixels.end(), many.train->pixels.begin()));
    EXPECT_TRUE(
        std::equal(few.train->labels.begin(), few.train->labels.end(), many.train->labels.begin()));
    EXPECT_EQ(few.test->pixels, many.test->pixels);
    EXPECT_NE(load_dataset(options, Key(5)).test->pixels, many.test->pixels);
    EXPECT_FALSE(
        std::equal(few.test->pixels.begin(), few.test->pixels.end(), few.train->pixels.begin()));
  }
}

// Nearest class mean of the training part, as a classifier of the test part.
double prototype_accuracy(const DataSource& source) {
  const Dataset &train = *source.train, &test = *source.test;
  const size_t values = train.sample_size(), classes = static_cast<size_t>(train.num_classes);
  const auto vectors = [&](const Dataset& dataset) {
    std::vector<float> out(dataset.size() * values);
    std::vector<uint32_t> all(dataset.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint32_t>(i);
    gather(dataset, all, nullptr, Key(0), out);
    return out;
  };
  const auto inputs = vectors(train), queries = vectors(test);
  std::vector<double> means(classes * values), counts(classes, 1e-9);
  for (size_t i = 0; i < train.size(); ++i) ++counts[static_cast<size_t>(train.labels[i])];
  for (size_t i = 0; i < train.size(); ++i) {
    const auto label = static_cast<size_t>(train.labels[i]);
    for (size_t j = 0; j < values; ++j)
      means[label * values + j] += double{inputs[i * values + j]} / counts[label];
  }
  size_t right = 0;
  for (size_t i = 0; i < test.size(); ++i) {
    size_t best = 0;
    double best_distance = INFINITY;
    for (size_t c = 0; c < classes; ++c) {
      double distance = 0;
      for (size_t j = 0; j < values; ++j)
        distance += std::pow(queries[i * values + j] - means[c * values + j], 2);
      if (distance < best_distance) best = c, best_distance = distance;
    }
    right += static_cast<int32_t>(best) == test.labels[i];
  }
  return static_cast<double>(right) / static_cast<double>(test.size());
}

TEST(Synthetic, NoiseDecidesHowHardItIs) {
  DataOptions options = small();
  EXPECT_EQ(prototype_accuracy(load_dataset(options, Key(1))), 1.0);
  options.synthetic_shape = {20};
  options.synthetic_noise = 0.5;
  EXPECT_GT(prototype_accuracy(load_dataset(options, Key(1))), 0.95);
  options.synthetic_noise = 20;
  EXPECT_LT(prototype_accuracy(load_dataset(options, Key(1))), 0.5);
}

TEST(Synthetic, ImagesAreNormalized) {
  const DataSource source = load_dataset(small(), Key(1));
  EXPECT_EQ(source.train->kind, Kind::kImage);
  double sum = 0, squares = 0;
  for (const uint8_t pixel : source.train->pixels) {
    const double value = (pixel / 255.0 - 0.5) / 0.125;
    sum += value;
    squares += value * value;
  }
  const auto count = static_cast<double>(source.train->pixels.size());
  EXPECT_NEAR(sum / count, 0, 0.1);
  EXPECT_NEAR(squares / count, 1, 0.1);
}

TEST(Synthetic, ClientsDiffer) {
  const DataSource source = load_dataset(fedprox(1, 1), Key(1));
  const Dataset& train = *source.train;
  EXPECT_EQ(train.client_names.size(), 20u);
  EXPECT_EQ(std::set<uint32_t>(train.client_of_sample.begin(), train.client_of_sample.end()).size(),
            20u);
  // The spread, over the clients, of the mean input grows with beta.
  const auto spread = [](const Dataset& dataset) {
    std::vector<double> sums(20), counts(20);
    for (size_t i = 0; i < dataset.size(); ++i) {
      for (size_t j = 0; j < 60; ++j)
        sums[dataset.client_of_sample[i]] += dataset.floats[60 * i + j];
      counts[dataset.client_of_sample[i]] += 60;
    }
    double sum = 0;
    for (size_t k = 0; k < 20; ++k) sum += std::pow(sums[k] / counts[k], 2);
    return sum / 20;
  };
  EXPECT_LT(spread(*load_dataset(fedprox(0, 0), Key(1)).train), 0.2);
  EXPECT_GT(spread(*load_dataset(fedprox(0, 4), Key(1)).train), 1.0);
}

TEST(Synthetic, SamplesAreSkippedAndLimited) {
  DataOptions options = small();
  const DataSource all = load_dataset(options, Key(1));
  const size_t width = all.train->sample_size(), n = all.train->size();
  ASSERT_GT(n, 10u);
  options.skip_train_samples = 3;
  options.max_train_samples = 5;
  const DataSource part = load_dataset(options, Key(1));
  ASSERT_EQ(part.train->size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(part.train->labels[i], all.train->labels[i + 3]);
    EXPECT_TRUE(std::equal(part.train->pixels.begin() + static_cast<long>(i * width),
                           part.train->pixels.begin() + static_cast<long>((i + 1) * width),
                           all.train->pixels.begin() + static_cast<long>((i + 3) * width)));
  }
  EXPECT_EQ(part.test->size(), all.test->size());
  options.max_train_samples = 0;
  EXPECT_EQ(load_dataset(options, Key(1)).train->size(), n - 3);
  options.max_train_samples = static_cast<int64_t>(n);  // more than there are
  EXPECT_EQ(load_dataset(options, Key(1)).train->size(), n - 3);
  options.skip_train_samples = static_cast<int64_t>(n);
  EXPECT_THROW(load_dataset(options, Key(1)), Error);
}

TEST(Synthetic, BadOptionsAreErrors) {
  const auto message = [](const DataOptions& options) {
    return error_of([&] { load_dataset(options, Key(1)); });
  };
  DataOptions options = small();
  options.synthetic_shape = {1 << 20, 1 << 20};
  EXPECT_THAT(message(options), HasSubstr("at most 2^24 values"));
  options.synthetic_shape = {};
  EXPECT_THAT(message(options), HasSubstr("got []"));
  options = small();
  options.synthetic_clients = 401;
  EXPECT_THAT(message(options), HasSubstr("at least synthetic_clients (401)"));
}

}  // namespace
}  // namespace espalier::data
