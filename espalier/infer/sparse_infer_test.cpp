#include "espalier/infer/sparse_infer.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <algorithm>

#include "espalier/base/random.h"
#include "espalier/params/parameter_set.h"

namespace espalier::infer {
namespace {

// Runs `body` once with each instruction set that this machine has.
template <class Body>
void for_every_target(Body&& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(static_cast<uint32_t>(target)));
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

constexpr float kUntouched = 77;

// Small whole numbers: every order of the sums gives the same floats.
AlignedVector<float> numbers(size_t size, Stream& stream) {
  AlignedVector<float> out(size);
  for (float& value : out) value = static_cast<float>(stream.below(9)) - 4;
  return out;
}

std::vector<uint32_t> choose(size_t channels, double share, Stream& stream) {
  std::vector<uint32_t> out;
  for (size_t c = 0; c < channels; ++c) {
    if (stream.uniform() < share) out.push_back(static_cast<uint32_t>(c));
  }
  return out;
}

SparseShape shape_of(size_t in, size_t height, size_t width, size_t out, size_t kernel,
                     size_t stride, size_t padding) {
  return {in,
          height,
          width,
          out,
          (height + 2 * padding - kernel) / stride + 1,
          (width + 2 * padding - kernel) / stride + 1,
          kernel,
          stride,
          padding};
}

// The definition, term by term.
float convolved(const SparseShape& s, const float* weights, const std::vector<uint32_t>& inputs,
                const float* x, size_t o, size_t pixel) {
  float sum = 0;
  for (const uint32_t c : inputs) {
    for (size_t t = 0; t < s.taps(); ++t) {
      const auto row = static_cast<int64_t>(pixel / s.out_width * s.stride + t / s.kernel) -
                       static_cast<int64_t>(s.padding);
      const auto column = static_cast<int64_t>(pixel % s.out_width * s.stride + t % s.kernel) -
                          static_cast<int64_t>(s.padding);
      if (row < 0 || column < 0 || row >= static_cast<int64_t>(s.in_height) ||
          column >= static_cast<int64_t>(s.in_width))
        continue;
      sum += weights[(o * s.in_channels + c) * s.taps() + t] *
             x[c * plane_size(s.in_pixels()) + static_cast<size_t>(row) * s.in_width +
               static_cast<size_t>(column)];
    }
  }
  return sum;
}

class SparseConvs : public testing::TestWithParam<SparseShape> {};

TEST_P(SparseConvs, EqualTheDefinitionOnEveryTarget) {
  const SparseShape& s = GetParam();
  Stream stream(Key(1));
  const SparsePlan plan(s);
  const size_t in_plane = plane_size(s.in_pixels()), plane = plane_size(s.pixels());
  const auto weights = numbers(s.out_channels * s.in_channels * s.taps() + kWeightSlack, stream);
  const auto room = numbers(s.in_channels * in_plane + 2 * kPlaneStep, stream);
  const float* x = room.data() + kPlaneStep;
  const auto scale = numbers(s.out_channels, stream), shift = numbers(s.out_channels, stream),
             residual = numbers(s.out_channels * plane, stream);
  for_every_target([&] {
    // The buffer is used again, as a net does: what one call leaves must not show in the next.
    AlignedVector<float> unfolded(plan.unfolded_size(), 0.0f);
    for (const double share : {1.0, 0.6, 0.3, 0.0}) {
      const auto inputs = choose(s.in_channels, share, stream),
                 outputs = choose(s.out_channels, share == 1.0 ? 1.0 : 0.5, stream);
      for (const bool rich : {false, true}) {
        AlignedVector<float> y(s.out_channels * plane, kUntouched);
        const SparseEpilogue epilogue{scale.data(), shift.data(), rich ? residual.data() : nullptr,
                                      rich};
        plan.unfold(x, inputs, unfolded.data());
        sparse_conv(plan, weights.data(), inputs, outputs, unfolded.data(), epilogue, y.data());
        for (size_t o = 0; o < s.out_channels; ++o) {
          const bool wanted = std::ranges::binary_search(outputs, static_cast<uint32_t>(o));
          for (size_t p = 0; p < s.pixels(); ++p) {
            float expected = kUntouched;
            if (wanted) {
              expected = scale[o] * convolved(s, weights.data(), inputs, x, o, p) + shift[o];
              if (rich) expected = std::max(0.0f, expected + residual[o * plane + p]);
            }
            ASSERT_EQ(y[o * plane + p], expected) << "channel " << o << " pixel " << p;
          }
        }
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    All, SparseConvs,
    testing::Values(shape_of(3, 32, 32, 5, 3, 1, 1), shape_of(17, 16, 16, 29, 3, 1, 1),
                    shape_of(13, 8, 8, 31, 3, 1, 1), shape_of(40, 4, 4, 27, 3, 1, 1),
                    shape_of(40, 2, 2, 27, 3, 1, 1), shape_of(9, 1, 1, 30, 3, 1, 1),
                    shape_of(9, 1, 3, 30, 3, 1, 1), shape_of(7, 2, 1, 30, 3, 1, 1),
                    shape_of(6, 7, 7, 25, 3, 1, 1), shape_of(6, 3, 3, 25, 3, 1, 1),
                    shape_of(5, 28, 28, 6, 5, 1, 2), shape_of(5, 14, 14, 26, 5, 1, 2),
                    shape_of(4, 15, 13, 7, 3, 1, 0), shape_of(4, 16, 16, 7, 3, 2, 1),
                    shape_of(4, 15, 9, 7, 3, 2, 1), shape_of(8, 4, 4, 13, 3, 2, 1),
                    shape_of(8, 16, 16, 13, 1, 2, 0), shape_of(8, 2, 2, 13, 1, 1, 0),
                    shape_of(6, 5, 5, 14, 1, 1, 0), shape_of(3, 9, 9, 4, 5, 3, 2)),
    [](const auto& test) {
      const SparseShape& s = test.param;
      return "in" + std::to_string(s.in_channels) + "x" + std::to_string(s.in_height) + "x" +
             std::to_string(s.in_width) + "_out" + std::to_string(s.out_channels) + "_kernel" +
             std::to_string(s.kernel) + "_stride" + std::to_string(s.stride) + "_padding" +
             std::to_string(s.padding);
    });

TEST(SparseInfer, LinearLayersReadTheGivenChannelsOnly) {
  Stream stream(Key(2));
  for_every_target([&] {
    for (const size_t pixels : {1U, 4U, 9U, 49U, 200U}) {
      const size_t channels = 37, rows = 11;
      for (const bool vector : {false, true}) {
        if (vector && pixels != 1) continue;
        const SparseLinear shape{rows, channels * pixels, pixels, vector ? 1 : plane_size(pixels),
                                 pixels == 9};
        auto x = numbers(channels * shape.plane + kPlaneStep, stream);
        const auto weights = numbers(rows * shape.columns + kWeightSlack, stream),
                   bias = numbers(rows, stream);
        const auto kept = choose(channels, vector ? 1 : 0.4, stream);
        std::vector<float> y(rows);
        sparse_linear(shape, weights.data(), bias.data(), kept, x.data(), y.data());
        for (size_t o = 0; o < rows; ++o) {
          float expected = bias[o];
          for (const uint32_t c : kept) {
            for (size_t p = 0; p < pixels; ++p)
              expected += weights[o * shape.columns + c * pixels + p] * x[c * shape.plane + p];
          }
          ASSERT_EQ(y[o], shape.relu ? std::max(0.0f, expected) : expected);
        }
      }
    }
  });
}

TEST(SparseInfer, ColumnsOfAMatrix) {
  Stream stream(Key(3));
  for_every_target([&] {
    for (const size_t rows : {1U, 7U, 16U, 45U, 300U}) {
      const size_t columns = 23;
      const auto matrix = numbers(rows * columns, stream), bias = numbers(rows, stream),
                 x = numbers(columns, stream);
      const auto kept = choose(columns, 0.5, stream);
      std::vector<float> y(rows);
      sparse_columns(matrix.data(), rows, bias.data(), kept, x.data(), y.data());
      for (size_t o = 0; o < rows; ++o) {
        float expected = bias[o];
        for (const uint32_t c : kept) expected += x[c] * matrix[c * rows + o];
        ASSERT_EQ(y[o], expected);
      }
    }
  });
}

TEST(SparseInfer, SumsOfPlanes) {
  Stream stream(Key(4));
  for_every_target([&] {
    for (size_t pixels = 1; pixels < 70; ++pixels) {
      const auto x = numbers(plane_size(pixels), stream);
      float expected = 0;
      for (size_t p = 0; p < pixels; ++p) expected += x[p];
      ASSERT_EQ(plane_sum(x.data(), pixels), expected);
    }
  });
}

}  // namespace
}  // namespace espalier::infer
