#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/data/dataset.h"
#include "espalier/data/test_files.h"

namespace espalier::data {
namespace {

Dataset random_images(int64_t channels, int64_t height, int64_t width, size_t count) {
  Dataset dataset;
  dataset.name = "test";
  dataset.sample_shape = {channels, height, width};
  dataset.num_classes = 10;
  Stream stream(Key(7));
  dataset.pixels.resize(count * dataset.sample_size());
  for (uint8_t& pixel : dataset.pixels) pixel = static_cast<uint8_t>(stream.below(256));
  for (size_t i = 0; i < count; ++i) dataset.labels.push_back(static_cast<int32_t>(i % 10));
  for (int64_t c = 0; c < channels; ++c) {
    dataset.mean.push_back(0.1f * static_cast<float>(c + 1));
    dataset.stddev.push_back(0.2f + 0.1f * static_cast<float>(c));
  }
  dataset.validate();
  return dataset;
}

// The kernel multiplies by a reciprocal: equal but for the last bits; zeros of padding are exact.
void expect_near(const std::vector<float>& got, const std::vector<float>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], expected[i] == 0 ? 2e-7 : 1e-6) << i;
}

// One pixel at a time, straight from the definitions in dataset.h.
std::vector<float> plain_gather(const Dataset& dataset, const std::vector<uint32_t>& indices,
                                const Augmentation* augmentation, Key key) {
  const int64_t channels = dataset.sample_shape[0], height = dataset.sample_shape[1],
                width = dataset.sample_shape[2];
  std::vector<float> out;
  for (size_t i = 0; i < indices.size(); ++i) {
    Stream stream(key.child(i));
    int64_t dy = 0, dx = 0, top = 0, left = 0, side = 0;
    bool flip = false;
    if (augmentation != nullptr) {
      if (augmentation->crop_padding > 0) {
        dy = static_cast<int64_t>(
                 stream.below(static_cast<uint64_t>(2 * augmentation->crop_padding + 1))) -
             augmentation->crop_padding;
        dx = static_cast<int64_t>(
                 stream.below(static_cast<uint64_t>(2 * augmentation->crop_padding + 1))) -
             augmentation->crop_padding;
      }
      if (augmentation->flip) flip = (stream.u32() & 1) != 0;
      side = augmentation->cutout;
      if (side > 0) {
        top = static_cast<int64_t>(stream.below(static_cast<uint64_t>(height))) - side / 2;
        left = static_cast<int64_t>(stream.below(static_cast<uint64_t>(width))) - side / 2;
      }
    }
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t source_y = y + dy, source_x = (flip ? width - 1 - x : x) + dx;
          const bool inside =
              source_y >= 0 && source_y < height && source_x >= 0 && source_x < width;
          const bool cut = y >= top && y < top + side && x >= left && x < left + side;
          const auto channel = static_cast<size_t>(c);
          if (!inside || cut) {
            out.push_back(dataset.fill.empty() ? 0 : dataset.fill[channel]);
            continue;
          }
          const auto at =
              ((static_cast<int64_t>(indices[i]) * height + source_y) * width + source_x) *
                  channels +
              c;
          const float pixel = static_cast<float>(dataset.pixels[static_cast<size_t>(at)]) / 255.0f;
          out.push_back((pixel - dataset.mean[channel]) / dataset.stddev[channel]);
        }
      }
    }
  }
  return out;
}

TEST(Gather, MatchesThePlainLoop) {
  const std::vector<Augmentation> cases = {{},           {4, false, 0}, {0, true, 0}, {0, false, 5},
                                           {3, true, 4}, {40, true, 90}};
  for (const int64_t channels : {1, 2, 3, 7}) {
    const Dataset dataset = random_images(channels, 9, 6, 20);
    const std::vector<uint32_t> indices = {3, 19, 0, 3, 7, 11, 12, 13, 14, 15};
    std::vector<float> out(indices.size() * dataset.sample_size());
    for (const Augmentation& augmentation : cases) {
      gather(dataset, indices, &augmentation, Key(5), out);
      expect_near(out, plain_gather(dataset, indices, &augmentation, Key(5)));
    }
    gather(dataset, indices, nullptr, Key(5), out);
    expect_near(out, plain_gather(dataset, indices, nullptr, Key(5)));
  }
}

// Two channels, worked by hand. Blanked pixels are the data set's mean, as a net reads it.
TEST(Gather, NormalizationsOfOnesChoice) {
  Dataset own;
  own.name = "two";
  own.sample_shape = {2, 1, 2};
  own.num_classes = 1;
  own.pixels = AlignedVector<uint8_t>{0, 255, 51, 102};
  own.labels = {0};
  own.mean = {0.2f, 0.6f};
  own.stddev = {0.5f, 0.25f};
  const std::vector<uint32_t> indices = {0};
  std::vector<float> out(4);
  const auto read = [&](const Dataset& dataset, const Augmentation* augmentation) {
    dataset.validate();
    gather(dataset, indices, augmentation, Key(3), out);
    return out;
  };
  const Augmentation blank{0, false, 90};
  expect_near(read(own, nullptr), {-0.4f, 1.6f, 0, -0.8f});
  EXPECT_EQ(read(own, &blank), (std::vector<float>{0, 0, 0, 0}));
  Dataset unit = own;
  set_normalization(unit, Normalization::unit(2));
  expect_near(read(unit, nullptr), {0, 1, 0.2f, 0.4f});
  EXPECT_EQ(read(unit, &blank), (std::vector<float>{0.2f, 0.6f, 0.2f, 0.6f}));
  EXPECT_EQ(largest_input(unit, indices), 1);
  Dataset none = own;
  set_normalization(none, Normalization::none(2));
  EXPECT_EQ(read(none, nullptr), (std::vector<float>{0, 255, 51, 102}));
  const auto fill = read(none, &blank);
  for (size_t i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(fill[i], i % 2 == 0 ? 51 : 153);
  EXPECT_EQ(largest_input(none, indices), 255);
  Dataset same = own;
  set_normalization(same, {own.mean, own.stddev});
  EXPECT_TRUE(same.fill.empty());
}

// Every byte is itself, and padding with a mean per channel is as the plain loop pads.
TEST(Gather, BytesAsTheyAre) {
  Dataset bytes = random_images(3, 9, 6, 20);
  set_normalization(bytes, Normalization::none(3));
  std::vector<uint32_t> indices(20);
  for (uint32_t i = 0; i < 20; ++i) indices[i] = i;
  std::vector<float> out(indices.size() * bytes.sample_size());
  gather(bytes, indices, nullptr, Key(1), out);
  for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], static_cast<float>(bytes.pixels[i]));
  for (const Augmentation& augmentation : {Augmentation{3, true, 4}, {40, true, 90}}) {
    gather(bytes, indices, &augmentation, Key(5), out);
    const auto expected = plain_gather(bytes, indices, &augmentation, Key(5));
    for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 1e-4) << i;
  }
}

TEST(Gather, AugmentationDependsOnKeyAndPosition) {
  const Dataset dataset = random_images(1, 12, 12, 4);
  const Augmentation augmentation{3, true, 4};
  const std::vector<uint32_t> same(8, 2);
  std::vector<float> a(8 * 144), b(8 * 144), shorter(4 * 144);
  gather(dataset, same, &augmentation, Key(1), a);
  gather(dataset, same, &augmentation, Key(2), b);
  EXPECT_NE(a, b);
  EXPECT_FALSE(std::equal(a.begin(), a.begin() + 144, a.begin() + 144));
  gather(dataset, std::span(same).first(4), &augmentation, Key(1), shorter);
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), a.begin()));
}

TEST(Gather, FloatsTokensAndLabels) {
  Dataset floats;
  floats.name = "floats";
  floats.kind = Kind::kFloat;
  floats.sample_shape = {2};
  floats.num_classes = 3;
  floats.floats = {0, 1, 2, 3, 4, 5};
  floats.labels = {2, 0, 1};
  floats.validate();
  const std::vector<uint32_t> indices = {2, 0};
  std::vector<float> out(4);
  gather(floats, indices, nullptr, Key(0), out);
  EXPECT_EQ(out, (std::vector<float>{4, 5, 0, 1}));
  std::vector<int64_t> labels(2);
  gather_labels(floats, indices, labels);
  EXPECT_EQ(labels, (std::vector<int64_t>{1, 2}));

  Dataset tokens = floats;
  tokens.kind = Kind::kTokens;
  tokens.vocabulary = 10;
  tokens.tokens = {9, 8, 7, 6, 5, 4};
  tokens.validate();
  std::vector<int64_t> ids(4);
  gather_tokens(tokens, indices, ids);
  EXPECT_EQ(ids, (std::vector<int64_t>{5, 4, 9, 8}));
}

TEST(Dataset, ValidateExplains) {
  const auto message = [](const Dataset& dataset) { return error_of([&] { dataset.validate(); }); };
  const Dataset good = random_images(1, 2, 2, 3);
  EXPECT_EQ(message(good), "");
  Dataset bad = good;
  bad.labels[1] = 10;
  EXPECT_EQ(message(bad), "[data/test] expected labels in [0, 10), got 10 (sample 1)");
  bad = good;
  bad.pixels.pop_back();
  EXPECT_NE(message(bad).find("expected 3 samples of 4 values"), std::string::npos);
  bad = good;
  bad.stddev[0] = 0;
  EXPECT_NE(message(bad).find("normalization"), std::string::npos);
  bad = good;
  bad.sample_shape = {int64_t{1} << 40, int64_t{1} << 40, 2};
  EXPECT_NE(message(bad).find("impossible"), std::string::npos);
  bad = good;
  bad.client_names = {"a"};
  bad.client_of_sample = {0, 0, 1};
  EXPECT_NE(message(bad).find("owners below 1"), std::string::npos);
  bad = good;
  bad.labels.clear();
  bad.pixels.clear();
  EXPECT_NE(message(bad).find("no samples"), std::string::npos);
}

TEST(Gather, FetchedFloatsEqualStoredOnes) {
  Dataset stored;
  stored.name = "test";
  stored.kind = Kind::kFloat;
  stored.sample_shape = {2, 3};
  stored.num_classes = 2;
  stored.labels = {0, 1, 1, 0};
  for (int i = 0; i < 24; ++i) stored.floats.push_back(0.25f * static_cast<float>(i));
  stored.validate();
  Dataset fetched = stored;
  fetched.floats.clear();
  EXPECT_THROW(fetched.validate(), Error);
  std::vector<uint32_t> asked;
  fetched.fetch = [&](uint32_t sample, std::span<float> out) {
    asked.push_back(sample);
    for (size_t i = 0; i < out.size(); ++i) out[i] = 0.25f * static_cast<float>(sample * 6 + i);
  };
  fetched.validate();
  const std::vector<uint32_t> indices = {3, 0, 3};
  std::vector<float> a(18), b(18);
  gather(stored, indices, nullptr, Key(1), a);
  gather(fetched, indices, nullptr, Key(1), b);
  EXPECT_EQ(a, b);
  EXPECT_EQ(asked, indices);
  fetched.floats = stored.floats;
  EXPECT_THROW(fetched.validate(), Error);  // which of the two?
  fetched.floats.clear();
  fetched.labels[2] = 2;
  EXPECT_THROW(fetched.validate(), Error);
}

// The same images as floats, channel by channel, normalized already.
Dataset as_floats(const Dataset& images) {
  Dataset floats;
  floats.name = "floats";
  floats.kind = Kind::kFloat;
  floats.sample_shape = images.sample_shape;
  floats.num_classes = images.num_classes;
  floats.labels = images.labels;
  const auto channels = static_cast<size_t>(images.sample_shape[0]);
  const size_t plane = images.sample_size() / channels;
  std::vector<uint32_t> all(images.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint32_t>(i);
  std::vector<float> pixels(images.size() * images.sample_size());
  gather(images, all, nullptr, Key(0), pixels);
  floats.floats.resize(pixels.size());
  for (size_t i = 0; i < images.size(); ++i) {
    for (size_t p = 0; p < plane; ++p) {
      for (size_t c = 0; c < channels; ++c)
        floats.floats[(i * channels + c) * plane + p] = pixels[(i * plane + p) * channels + c];
    }
  }
  floats.validate();
  return floats;
}

TEST(Gather, FloatImagesAreAugmentedAsPixelsAre) {
  for (const int64_t channels : {1, 3}) {
    const Dataset images = random_images(channels, 9, 6, 8);
    Dataset floats = as_floats(images);
    const auto depth = static_cast<size_t>(channels);
    const size_t plane = images.sample_size() / depth;
    const std::vector<uint32_t> indices = {3, 0, 7, 7, 1};
    std::vector<float> pixels(indices.size() * images.sample_size()), values(pixels.size());
    for (const Augmentation& augmentation :
         {Augmentation{4, false, 0}, {0, true, 0}, {0, false, 5}, {3, true, 4}, {40, true, 90}}) {
      gather(images, indices, &augmentation, Key(5), pixels);
      gather(floats, indices, &augmentation, Key(5), values);
      for (size_t i = 0; i < indices.size(); ++i) {
        for (size_t p = 0; p < plane; ++p) {
          for (size_t c = 0; c < depth; ++c)
            ASSERT_EQ(values[(i * depth + c) * plane + p], pixels[(i * plane + p) * depth + c]);
        }
      }
    }
    // Everything is cut out: what is left is the fill.
    for (size_t c = 0; c < depth; ++c) floats.fill.push_back(static_cast<float>(c) + 0.5f);
    floats.validate();
    const Augmentation all{0, false, 90};
    gather(floats, indices, &all, Key(5), values);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], floats.fill[i / plane % depth]);
    floats.fill.push_back(0);
    EXPECT_THROW(floats.validate(), Error);
  }
}

TEST(Gather, FetchedFloatImagesAreAugmentedToo) {
  const Dataset stored = as_floats(random_images(2, 5, 4, 3));
  Dataset fetched = stored;
  fetched.floats.clear();
  fetched.fetch = [&](uint32_t sample, std::span<float> out) {
    std::copy_n(stored.floats.data() + sample * out.size(), out.size(), out.data());
  };
  const std::vector<uint32_t> indices = {2, 0, 1};
  std::vector<float> a(3 * 40), b(3 * 40);
  const Augmentation augmentation{2, true, 2};
  gather(stored, indices, &augmentation, Key(1), a);
  gather(fetched, indices, &augmentation, Key(1), b);
  EXPECT_EQ(a, b);
}

TEST(Augmentation, IsRefusedForWhatIsNoImage) {
  const Augmentation flip{0, true, 0};
  const Dataset images = random_images(1, 2, 2, 3);
  EXPECT_EQ(error_of([&] { check_augmentation(images, flip); }), "");
  EXPECT_EQ(error_of([&] { check_augmentation(as_floats(images), flip); }), "");
  Dataset table = as_floats(images);
  table.sample_shape = {4};
  EXPECT_EQ(error_of([&] { check_augmentation(table, {}); }), "");
  EXPECT_NE(error_of([&] {
              check_augmentation(table, flip);
            }).find("values of shape [4] of floats are none"),
            std::string::npos);
  Dataset tokens = table;
  tokens.kind = Kind::kTokens;
  EXPECT_NE(error_of([&] { check_augmentation(tokens, flip); }).find("tokens of shape [4]"),
            std::string::npos);
}

}  // namespace
}  // namespace espalier::data
