#include "espalier/nn/small_batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/nn/dot_linear.h"
#include "espalier/nn/onednn.h"
#include "espalier/params/parameter_set.h"

namespace espalier::nn {
namespace {

struct Problem {
  explicit Problem(const LinearShape& s)
      : shape(s),
        x(s.batch * s.in),
        w(s.out * s.in),
        dy(s.batch * s.out),
        scratch(std::max(small_batch_scratch(s), dot_linear_scratch(s)) / sizeof(float)) {
    Stream stream(Key(5));
    for (AlignedVector<float>* values : {&x, &w, &dy}) {
      for (float& value : *values) value = static_cast<float>(stream.normal());
    }
  }
  LinearShape shape;
  AlignedVector<float> x, w, dy, scratch;
};

int64_t size(size_t value) { return static_cast<int64_t>(value); }

// Batches at both ends, sizes that are no multiples of anything, more outputs than one block of a
// sum has, and inputs in several parts.
const std::vector<LinearShape> kShapes = {
    {2, 5, 3},       {10, 784, 64}, {10, 1000, 400}, {15, 777, 513}, {3, 33, 1000},
    {10, 3136, 512}, {7, 64, 3000}, {10, 12544, 31}, {14, 16, 17},   {10, 4096, 512}};

class SmallBatch : public testing::TestWithParam<LinearShape> {
 protected:
  void SetUp() override {
    if (!small_batch(GetParam())) GTEST_SKIP() << "oneDNN has no AVX-512 here";
  }
};

TEST_P(SmallBatch, ForwardIsTheProductAndOneDnnsBits) {
  Problem p(GetParam());
  const auto& [batch, in, out] = p.shape;
  AlignedVector<float> y(batch * out), expected(batch * out);
  small_batch_forward(p.shape, p.x.data(), p.w.data(), y.data(), p.scratch.data());
  for (size_t b = 0; b < batch; ++b) {
    for (size_t o = 0; o < out; ++o) {
      double sum = 0, magnitude = 0;
      for (size_t i = 0; i < in; ++i) {
        const double product = double{p.x[b * in + i]} * double{p.w[o * in + i]};
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(y[b * out + o], sum, 1e-6 * magnitude) << b << " " << o;
    }
  }
  gemm('N', 'T', size(batch), size(out), size(in), 1, p.x.data(), size(in), p.w.data(), size(in), 0,
       expected.data(), size(out));
  EXPECT_EQ(y, expected);
}

TEST_P(SmallBatch, BackwardIsBothProductsAndOneDnnsBits) {
  Problem p(GetParam());
  const auto& [batch, in, out] = p.shape;
  constexpr float kRate = 0.05f, kKeep = 0.999f;
  AlignedVector<float> dx(batch * in), expected_dx(batch * in), expected = p.w, gradient(out * in),
                                                                expected_gradient(out * in);
  gemm('N', 'N', size(batch), size(in), size(out), 1, p.dy.data(), size(out), p.w.data(), size(in),
       0, expected_dx.data(), size(in));
  gemm('T', 'N', size(out), size(in), size(batch), -kRate, p.dy.data(), size(out), p.x.data(),
       size(in), kKeep, expected.data(), size(in));
  gemm('T', 'N', size(out), size(in), size(batch), 1, p.dy.data(), size(out), p.x.data(), size(in),
       0, expected_gradient.data(), size(in));

  LinearBackward data{p.x.data(), p.dy.data(), p.w.data(), dx.data(), gradient.data()};
  const AlignedVector<float> before = p.w;
  small_batch_backward(p.shape, data, p.scratch.data());
  EXPECT_EQ(p.w, before);
  EXPECT_EQ(gradient, expected_gradient);
  EXPECT_EQ(dx, expected_dx);
  for (size_t b = 0; b < batch; ++b) {
    for (size_t i = 0; i < in; ++i) {
      double sum = 0, magnitude = 0;
      for (size_t o = 0; o < out; ++o) {
        const double product = double{p.dy[b * out + o]} * double{before[o * in + i]};
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(dx[b * in + i], sum, 1e-6 * magnitude) << b << " " << i;
    }
  }

  dx.assign(dx.size(), 0.0f);
  data.gradient = nullptr;
  data.rate = kRate;
  data.keep = kKeep;
  small_batch_backward(p.shape, data, p.scratch.data());
  const AlignedVector<float> updated = p.w;
  if (in % 4096 == 0) {  // rows whole pages apart: oneDNN copies them first and rounds otherwise
    for (size_t i = 0; i < updated.size(); ++i) ASSERT_NEAR(updated[i], expected[i], 1e-6);
  } else {
    EXPECT_EQ(updated, expected);
  }
  EXPECT_EQ(dx, expected_dx);

  p.w = before;
  data.dx = nullptr;
  small_batch_backward(p.shape, data, p.scratch.data());
  EXPECT_EQ(p.w, updated);

  p.w.assign(p.w.size(), NAN);  // read elsewhere
  data.from = before.data();
  data.dx = dx.data();
  small_batch_backward(p.shape, data, p.scratch.data());
  EXPECT_EQ(p.w, updated);
  EXPECT_EQ(dx, expected_dx);
}

// Rounded to bf16, as the products of dot_linear.h read them.
double rounded(float value) {
  Bf16 half;
  put(half, value);
  return double{to_float(half)};
}

class DotLinear : public testing::TestWithParam<LinearShape> {
 protected:
  void SetUp() override {
    if (!dot_linear(GetParam())) GTEST_SKIP() << "this processor has no dot product of bf16";
  }
};

TEST_P(DotLinear, ForwardIsTheProductOfRoundedValues) {
  Problem p(GetParam());
  const auto& [batch, in, out] = p.shape;
  AlignedVector<float> y(batch * out, NAN);
  std::fill(p.scratch.begin(), p.scratch.end(), NAN);  // nobody clears it
  dot_linear_forward(p.shape, p.x.data(), p.w.data(), y.data(), p.scratch.data());
  for (size_t b = 0; b < batch; ++b) {
    for (size_t o = 0; o < out; ++o) {
      double sum = 0, magnitude = 0;
      for (size_t i = 0; i < in; ++i) {
        const double product = rounded(p.x[b * in + i]) * rounded(p.w[o * in + i]);
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(y[b * out + o], sum, 1e-6 * magnitude) << b << " " << o;
    }
  }
}

TEST_P(DotLinear, BackwardIsBothProductsOfRoundedValues) {
  Problem p(GetParam());
  const auto& [batch, in, out] = p.shape;
  constexpr float kRate = 0.05f, kKeep = 0.999f;
  AlignedVector<float> dx(batch * in, NAN), gradient(out * in, NAN);
  const AlignedVector<float> before = p.w;
  LinearBackward data{p.x.data(), p.dy.data(), p.w.data(), dx.data(), gradient.data()};
  std::fill(p.scratch.begin(), p.scratch.end(), NAN);
  dot_linear_backward(p.shape, data, p.scratch.data());
  EXPECT_EQ(p.w, before);
  for (size_t b = 0; b < batch; ++b) {
    for (size_t i = 0; i < in; ++i) {
      double sum = 0, magnitude = 0;
      for (size_t o = 0; o < out; ++o) {
        const double product = rounded(p.dy[b * out + o]) * rounded(before[o * in + i]);
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(dx[b * in + i], sum, 1e-6 * magnitude) << b << " " << i;
    }
  }
  for (size_t o = 0; o < out; ++o) {
    for (size_t i = 0; i < in; ++i) {
      double sum = 0, magnitude = 0;
      for (size_t b = 0; b < batch; ++b) {
        const double product = rounded(p.dy[b * out + o]) * rounded(p.x[b * in + i]);
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(gradient[o * in + i], sum, 1e-6 * magnitude) << o << " " << i;
    }
  }

  // The update uses that gradient; dx is of the weights before it.
  const AlignedVector<float> first_dx = dx;
  data.gradient = nullptr;
  data.rate = kRate;
  data.keep = kKeep;
  dot_linear_backward(p.shape, data, p.scratch.data());
  EXPECT_EQ(dx, first_dx);
  const AlignedVector<float> updated = p.w;
  for (size_t i = 0; i < updated.size(); ++i)
    ASSERT_NEAR(updated[i], kKeep * before[i] - kRate * gradient[i],
                1e-6f * (std::abs(before[i]) + std::abs(gradient[i])));
  p.w = before;
  data.dx = nullptr;
  dot_linear_backward(p.shape, data, p.scratch.data());
  EXPECT_EQ(p.w, updated);
}

std::string name_of(const testing::TestParamInfo<LinearShape>& test) {
  const LinearShape& s = test.param;
  return std::to_string(s.batch) + "x" + std::to_string(s.in) + "to" + std::to_string(s.out);
}
INSTANTIATE_TEST_SUITE_P(Shapes, SmallBatch, testing::ValuesIn(kShapes), name_of);

INSTANTIATE_TEST_SUITE_P(Shapes, DotLinear, testing::ValuesIn(kShapes), name_of);

TEST(SmallBatchChoice, OtherBatchesAreLeftToOneDnn) {
  EXPECT_FALSE(small_batch({1, 100, 100}));
  EXPECT_FALSE(small_batch({16, 100, 100}));
  EXPECT_FALSE(worth_small_batch({10, 784, 64}));
}

TEST(SmallBatchBlocks, AreWhatOneDnnCutsASumInto) {
  EXPECT_EQ(inner_block(384), 384u);
  EXPECT_EQ(inner_block(512), 256u);
  EXPECT_EQ(inner_block(1000), 384u);
  EXPECT_EQ(inner_block(616), 308u);
}

}  // namespace
}  // namespace espalier::nn
