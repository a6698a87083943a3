#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/nn/dot_conv.h"
#include "espalier/nn/sparse_conv.h"
#include "espalier/nn/thin_conv.h"
#include "espalier/nn/thin_forward.h"
#include "espalier/params/parameter_set.h"

namespace espalier::nn {
namespace {

// `gradient(x, dy, weights, bias)` against a plain loop in double.
template <class Gradient>
void check_gradient(const ConvShape& s, const Gradient& gradient) {
  const size_t inputs = s.height * s.width * s.channels,
               outputs = s.out_height * s.out_width * s.out_channels;
  std::vector<Bf16> x(s.batch * inputs), dy(s.batch * outputs);
  Stream stream(Key(4));
  for (std::vector<Bf16>* values : {&x, &dy}) {
    for (Bf16& value : *values) put(value, static_cast<float>(stream.normal()));
  }
  const size_t taps = s.kernel * s.kernel;
  std::vector<float> weights(s.out_channels * s.channels * taps), bias(s.out_channels);
  gradient(x.data(), dy.data(), weights.data(), bias.data());

  for (size_t o = 0; o < s.out_channels; ++o) {
    double all = 0, size = 0;
    for (size_t i = o; i < dy.size(); i += s.out_channels) {
      all += double{to_float(dy[i])};
      size += std::abs(double{to_float(dy[i])});
    }
    ASSERT_NEAR(bias[o], all, 1e-6 * size);
    for (size_t c = 0; c < s.channels; ++c) {
      for (size_t tap = 0; tap < taps; ++tap) {
        double sum = 0, magnitude = 0;
        for (size_t n = 0; n < s.batch; ++n) {
          for (size_t p = 0; p < s.out_height * s.out_width; ++p) {
            const size_t row = p / s.out_width * s.stride + tap / s.kernel,
                         column = p % s.out_width * s.stride + tap % s.kernel;
            if (row < s.padding || row >= s.height + s.padding || column < s.padding ||
                column >= s.width + s.padding)
              continue;
            const size_t at = (row - s.padding) * s.width + column - s.padding;
            const double product = double{to_float(x[n * inputs + at * s.channels + c])} *
                                   double{to_float(dy[n * outputs + p * s.out_channels + o])};
            sum += product;
            magnitude += std::abs(product);
          }
        }
        ASSERT_NEAR(weights[(o * s.channels + c) * taps + tap], sum, 1e-6 * magnitude)
            << o << " " << c << " " << tap;
      }
    }
  }
  const std::vector<float> before = weights;
  gradient(x.data(), dy.data(), weights.data(), nullptr);
  EXPECT_EQ(weights, before);
}

class ThinConv : public testing::TestWithParam<ConvShape> {};
TEST_P(ThinConv, GradientsAreThoseOfThePlainLoop) {
  const ConvShape& s = GetParam();
  ASSERT_TRUE(thin_conv(s));
  AlignedVector<float> scratch(thin_conv_scratch(s) / sizeof(float), NAN);  // nobody clears it
  check_gradient(s, [&](const Bf16* x, const Bf16* dy, float* weights, float* bias) {
    thin_conv_gradient(s, x, dy, weights, bias, scratch.data());
  });
}

class DotConv : public testing::TestWithParam<ConvShape> {};
TEST_P(DotConv, GradientsAreThoseOfThePlainLoop) {
  const ConvShape& s = GetParam();
  if (!dot_conv(s)) GTEST_SKIP() << "this processor has no dot product of bf16";
  AlignedVector<float> scratch(dot_conv_scratch(s) / sizeof(float), NAN);
  check_gradient(s, [&](const Bf16* x, const Bf16* dy, float* weights, float* bias) {
    dot_conv_gradient(s, x, dy, weights, bias, scratch.data());
  });
}

std::string name_of(const testing::TestParamInfo<ConvShape>& test) {
  const ConvShape& s = test.param;
  return std::to_string(s.batch) + "of" + std::to_string(s.kernel) + "x" +
         std::to_string(s.kernel) + "of" + std::to_string(s.channels) + "to" +
         std::to_string(s.out_channels) + "stride" + std::to_string(s.stride) + "on" +
         std::to_string(s.width);
}
INSTANTIATE_TEST_SUITE_P(Shapes, ThinConv,
                         testing::Values(ConvShape{3, 28, 28, 1, 32, 28, 28, 5, 1, 2},
                                         ConvShape{2, 32, 32, 3, 16, 32, 32, 3, 1, 1},
                                         ConvShape{2, 11, 9, 3, 48, 9, 7, 3, 1, 0},
                                         ConvShape{2, 13, 10, 1, 16, 7, 5, 3, 2, 1}),
                         name_of);

// Whole and partial vectors of channels, lines of one and of an odd number of outputs, several
// images at a time with some left over.
INSTANTIATE_TEST_SUITE_P(Shapes, DotConv,
                         testing::Values(ConvShape{3, 32, 32, 16, 16, 32, 32, 3, 1, 1},
                                         ConvShape{9, 8, 8, 64, 64, 8, 8, 3, 1, 1},
                                         ConvShape{2, 16, 16, 32, 64, 8, 8, 3, 2, 1},
                                         ConvShape{2, 32, 32, 16, 64, 32, 32, 1, 1, 0},
                                         ConvShape{3, 16, 16, 24, 40, 8, 8, 1, 2, 0},
                                         ConvShape{3, 14, 14, 32, 64, 14, 14, 5, 1, 2},
                                         ConvShape{2, 11, 9, 19, 13, 9, 7, 3, 1, 0},
                                         ConvShape{2, 13, 10, 3, 7, 7, 5, 5, 2, 2},
                                         ConvShape{33, 1, 1, 48, 20, 1, 1, 3, 1, 1},
                                         ConvShape{8, 32, 32, 16, 16, 32, 32, 3, 1, 1},
                                         ConvShape{14, 16, 16, 32, 64, 8, 8, 3, 2, 1}),
                         name_of);

class ThinForward : public testing::TestWithParam<ConvShape> {};
TEST_P(ThinForward, IsThePlainLoopOfRoundedValues) {
  const ConvShape& s = GetParam();
  if (!thin_forward(s)) GTEST_SKIP() << "this processor has no dot product of bf16";
  const size_t inputs = s.height * s.width * s.channels,
               outputs = s.out_height * s.out_width * s.out_channels;
  std::vector<Bf16> x(s.batch * inputs), y(s.batch * outputs);
  std::vector<float> w(s.out_channels * s.channels * s.kernel * s.kernel), bias(s.out_channels);
  Stream stream(Key(6));
  for (Bf16& value : x) put(value, static_cast<float>(stream.normal()));
  for (std::vector<float>* values : {&w, &bias}) {
    for (float& value : *values) value = static_cast<float>(stream.normal());
  }
  AlignedVector<float> scratch(thin_forward_scratch(s) / sizeof(float), NAN);
  for (const bool relu : {false, true}) {
    const float* const added = relu ? bias.data() : nullptr;
    thin_forward(s, x.data(), w.data(), added, relu, y.data(), scratch.data());
    for (size_t i = 0; i < y.size(); ++i) {
      const size_t o = i % s.out_channels, position = i % outputs / s.out_channels;
      double sum = relu ? double{bias[o]} : 0, magnitude = std::abs(sum);
      for (size_t tap = 0; tap < s.kernel * s.kernel; ++tap) {
        const size_t row = position / s.out_width * s.stride + tap / s.kernel,
                     column = position % s.out_width * s.stride + tap % s.kernel;
        if (row < s.padding || row >= s.height + s.padding || column < s.padding ||
            column >= s.width + s.padding)
          continue;
        for (size_t c = 0; c < s.channels; ++c) {
          const size_t at = ((row - s.padding) * s.width + column - s.padding) * s.channels + c;
          Bf16 weight;
          put(weight, w[(o * s.channels + c) * s.kernel * s.kernel + tap]);
          const double product =
              double{to_float(x[i / outputs * inputs + at])} * double{to_float(weight)};
          sum += product;
          magnitude += std::abs(product);
        }
      }
      if (relu) sum = std::max(sum, 0.0);
      ASSERT_NEAR(to_float(y[i]), sum, std::abs(sum) / 256 + 1e-6 * magnitude) << i;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, ThinForward,
                         testing::Values(ConvShape{3, 28, 28, 1, 32, 28, 28, 5, 1, 2},
                                         ConvShape{2, 32, 32, 3, 16, 32, 32, 3, 1, 1},
                                         ConvShape{2, 11, 9, 3, 48, 9, 7, 3, 1, 0},
                                         ConvShape{2, 13, 10, 2, 64, 7, 5, 3, 2, 1}),
                         name_of);

// A value that is none is not hidden by the ReLU, nor by what stands beside it.
TEST(ThinForwardNan, ReachesEveryOutputThatReadsIt) {
  const ConvShape s{1, 8, 8, 3, 16, 8, 8, 3, 1, 1};
  if (!thin_forward(s)) GTEST_SKIP() << "this processor has no dot product of bf16";
  std::vector<Bf16> x(8 * 8 * 3), y(8 * 8 * 16);
  for (Bf16& value : x) put(value, 1.0f);
  put(x[(3 * 8 + 3) * 3 + 1], NAN);
  const std::vector<float> w(16 * 3 * 9, -1.0f);
  AlignedVector<float> scratch(thin_forward_scratch(s) / sizeof(float));
  thin_forward(s, x.data(), w.data(), nullptr, true, y.data(), scratch.data());
  for (size_t row = 2; row <= 4; ++row) {
    for (size_t column = 2; column <= 4; ++column)
      EXPECT_TRUE(std::isnan(to_float(y[(row * 8 + column) * 16]))) << row << " " << column;
  }
  EXPECT_EQ(to_float(y[0]), 0.0f);
}

// The backward pass behind a pooling against a plain loop in double; with the dot product of bf16
// where the processor has it, weights are rounded.
class SparseConv : public testing::TestWithParam<SparseConvShape> {};
template <class T>
void check_sparse(const SparseConvShape& s, bool relu, bool biased) {
  const size_t inputs = s.height * s.width * s.channels, padded = padded_channels(s),
               pooled = s.pooled_height * s.pooled_width * s.out_channels,
               filter = s.kernel * s.kernel * padded;
  std::vector<T> x(s.batch * inputs), dy(s.batch * pooled), y(dy.size()), dx(x.size());
  std::vector<uint8_t> argmax(dy.size());
  AlignedVector<float> w(s.out_channels * filter), dw(w.size(), NAN);
  std::vector<float> db(s.out_channels, NAN);
  Stream stream(Key(9));
  for (std::vector<T>* values : {&x, &dy, &y, &dx}) {
    for (T& value : *values) put(value, static_cast<float>(stream.normal()));
  }
  for (uint8_t& place : argmax) place = static_cast<uint8_t>(stream.below(s.window * s.window));
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = i % padded < s.channels ? static_cast<float>(stream.normal()) : 0.0f;
  // A channel without any gradient, and one with all.
  for (size_t i = 0; i < y.size(); i += s.out_channels) {
    put(y[i], -1.0f);
    put(dy[i], relu ? 1.0f : 0.0f);
    put(y[i + 1], 1.0f);
  }
  std::vector<double> weights(w.size()), bias(s.out_channels), data(dx.size());
  std::vector<double> weight_sizes(w.size()), bias_sizes(bias), data_sizes(data);
  uint64_t walked = 0;
  for (size_t i = 0; i < dy.size(); ++i) {
    const double gradient{to_float(dy[i])};
    if (gradient == 0 || (relu && to_float(y[i]) <= 0)) continue;
    ++walked;
    const size_t n = i / pooled, c = i % s.out_channels, p = i % pooled / s.out_channels,
                 row = p / s.pooled_width * s.window + argmax[i] / s.window,
                 column = p % s.pooled_width * s.window + argmax[i] % s.window;
    bias[c] += gradient;
    bias_sizes[c] += std::abs(gradient);
    for (size_t tap = 0; tap < s.kernel * s.kernel; ++tap) {
      const size_t in_row = row + tap / s.kernel - s.padding,
                   in_column = column + tap % s.kernel - s.padding;
      if (in_row >= s.height || in_column >= s.width) continue;
      const size_t at = n * inputs + (in_row * s.width + in_column) * s.channels,
                   of = c * filter + tap * padded;
      for (size_t k = 0; k < s.channels; ++k) {
        T weight;
        put(weight, w[of + k]);
        const double rounded{has_sparse_dot() ? to_float(weight) : w[of + k]},
            value{to_float(x[at + k])};
        weights[of + k] += gradient * value;
        weight_sizes[of + k] += std::abs(gradient * value);
        data[at + k] += gradient * rounded;
        data_sizes[at + k] += std::abs(gradient * rounded);
      }
    }
  }
  SparseConvScratch scratch;
  SparseConvData<T> d{x.data(), dy.data(), relu ? y.data() : nullptr,    argmax.data(),
                      w.data(), dw.data(), biased ? db.data() : nullptr, dx.data()};
  sparse_conv_backward(s, d, scratch);
  EXPECT_EQ(scratch.walked, walked);
  for (size_t i = 0; i < dw.size(); ++i) {
    if (i % padded < s.channels) {
      ASSERT_NEAR(dw[i], weights[i], 1e-6 * weight_sizes[i]) << i;
    } else {
      ASSERT_EQ(dw[i], 0) << i;
    }
  }
  for (size_t c = 0; biased && c < s.out_channels; ++c)
    ASSERT_NEAR(db[c], bias[c], 1e-6 * bias_sizes[c]) << c;
  const double grain = std::is_same_v<T, float> ? 0 : 1.0 / 256;
  for (size_t i = 0; i < dx.size(); ++i) {
    ASSERT_NEAR(to_float(dx[i]), data[i], grain * std::abs(data[i]) + 1e-6 * data_sizes[i]) << i;
  }
  // The same again, in rooms that have been used, and without the input's gradient.
  const AlignedVector<float> before = dw;
  d.dx = nullptr;
  sparse_conv_backward(s, d, scratch);
  EXPECT_EQ(dw, before);
}
TEST_P(SparseConv, GradientsAreThoseOfThePlainLoop) {
  for (const bool relu : {false, true}) {
    check_sparse<float>(GetParam(), relu, relu);
    check_sparse<Bf16>(GetParam(), relu, relu);
  }
}
// Rows of whole and of half blocks, more blocks than are worked on at a time, channels that are no
// multiple of 16, several bands, windows of three, images whose last pixels no window has.
INSTANTIATE_TEST_SUITE_P(Shapes, SparseConv,
                         testing::Values(SparseConvShape{3, 14, 14, 32, 64, 5, 2, 7, 7, 2},
                                         SparseConvShape{2, 32, 32, 32, 10, 3, 1, 16, 16, 2},
                                         SparseConvShape{2, 12, 10, 16, 7, 3, 1, 6, 5, 2},
                                         SparseConvShape{1, 9, 11, 19, 5, 3, 0, 2, 3, 3},
                                         SparseConvShape{2, 8, 8, 144, 12, 3, 1, 4, 4, 2},
                                         SparseConvShape{2, 6, 6, 12, 3, 1, 0, 3, 3, 2},
                                         SparseConvShape{1, 7, 7, 512, 4, 3, 1, 3, 3, 2}),
                         [](const testing::TestParamInfo<SparseConvShape>& test) {
                           const SparseConvShape& s = test.param;
                           return std::to_string(s.channels) + "to" +
                                  std::to_string(s.out_channels) + "of" + std::to_string(s.kernel) +
                                  "window" + std::to_string(s.window);
                         });

// What it says of its memory, against what it has.
template <class T>
void check_sparse_bytes() {
  const SparseConvShape s{2, 14, 14, 32, 64, 5, 2, 7, 7, 2};
  std::vector<T> x(2 * 14 * 14 * 32), dy(2 * 7 * 7 * 64), y(2 * 7 * 7 * 64), dx(x.size());
  const std::vector<uint8_t> argmax(y.size(), 3);
  AlignedVector<float> w(64 * 25 * padded_channels(s)), dw(w.size());
  for (T& value : y) put(value, 1.0f);
  for (T& value : dy) put(value, 1.0f);
  for (const bool wanted : {false, true}) {
    SparseConvScratch scratch;
    sparse_conv_backward(s,
                         SparseConvData<T>{x.data(), dy.data(), y.data(), argmax.data(), w.data(),
                                           dw.data(), nullptr, wanted ? dx.data() : nullptr},
                         scratch);
    const size_t bytes =
        (scratch.input.size() + scratch.input_gradient.size()) * sizeof(float) +
        (scratch.entries.size() + scratch.position_entries.size()) *
            sizeof(SparseConvScratch::Entry) +
        (scratch.rounded_input.size() + scratch.rounded_weights.size()) * sizeof(Bf16) +
        (scratch.counts.size() + scratch.position_counts.size()) * sizeof(uint32_t);
    EXPECT_EQ(sparse_conv_scratch_bytes<T>(s, wanted), bytes) << wanted;
  }
}
TEST(SparseConvMemory, IsWhatItSays) {
  check_sparse_bytes<float>();
  check_sparse_bytes<Bf16>();
}

TEST(ThinConvChoice, OtherShapesAreLeftToOneDnn) {
  EXPECT_FALSE(thin_conv({1, 8, 8, 3, 16, 8, 8, 5, 1, 2}));
  EXPECT_FALSE(thin_conv({1, 8, 8, 3, 24, 8, 8, 3, 1, 1}));
  EXPECT_FALSE(thin_conv({1, 8, 8, 16, 16, 8, 8, 3, 1, 1}));
}

}  // namespace
}  // namespace espalier::nn
