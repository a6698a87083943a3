#include "espalier/params/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/base/simd.h"

namespace espalier {

namespace {

int ceil_log2(double value) {
  return static_cast<int>(std::ceil(std::log2(std::max(value, 1e-300))));
}

// sums[i] += x[i]·factor, each product rounded to the nearest integer, ties to even. For products
// below 2^51, adding 1.5·2^52 leaves the integer in the low bits of the pattern, which vectorizes
// on every machine; add_large takes the rest.
ESPALIER_KERNEL void add_small(const float* __restrict x, double factor, int64_t* __restrict sums,
                               size_t count) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5·2^52
  constexpr auto kMagicBits = std::bit_cast<int64_t>(kMagic);
  for (size_t i = 0; i < count; ++i) {
    sums[i] += std::bit_cast<int64_t>(static_cast<double>(x[i]) * factor + kMagic) - kMagicBits;
  }
}

void add_large(const float* __restrict x, double factor, int64_t* __restrict sums, size_t count) {
  for (size_t i = 0; i < count; ++i) sums[i] += std::llrint(static_cast<double>(x[i]) * factor);
}

// For non-negative floats the order of bit patterns is the order of values, with infinity and NaN
// above everything.
ESPALIER_KERNEL float largest_magnitude_of(const float* x, size_t count) {
  int32_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  return std::bit_cast<float>(largest);
}
float largest_magnitude(std::span<const float> x) {
  return largest_magnitude_of(x.data(), x.size());
}

}  // namespace

ExactAccumulator::ExactAccumulator(size_t size, uint64_t max_contributions, double max_weight)
    : size_(size),
      max_contributions_(max_contributions),
      max_weight_(max_weight),
      sums_(size, 0),
      stripes_(std::make_unique<std::mutex[]>(size / kStripe + 1)) {
  ESPALIER_CHECK(max_contributions > 0 && max_weight > 0 && std::isfinite(max_weight));
  const int spent = ceil_log2(static_cast<double>(max_contributions)) + ceil_log2(max_weight);
  if (spent > 38) {
    fail("params/exact_sum",
         "the weights of one round are too large to be summed exactly: ", max_contributions,
         " contributions of up to ", max_weight, "; scale the weights down");
  }
  // Tiny weights need no more than 62 bits either: the scale stays a normal double.
  fraction_bits_ = std::min(62 - spent - kLogMaxValue, 200);
  scale_ = std::ldexp(1.0, fraction_bits_);
}

float ExactAccumulator::check(std::span<const float> x, double weight) const {
  if (x.size() != size_) fail("params/exact_sum", "expected ", size_, " values, got ", x.size());
  if (!(weight >= 0) || weight > max_weight_) {
    fail("params/exact_sum", "expected a weight from 0 to ", max_weight_, ", got ", weight);
  }
  const float largest = largest_magnitude(x);
  if (!(largest <= kMaxValue)) {
    fail("params/exact_sum", "expected finite values of magnitude at most ", kMaxValue, ", got ",
         largest, "; training diverged (lower the learning rate) or the sender is faulty");
  }
  return largest;
}

void ExactAccumulator::add_checked(std::span<const float> x, double weight, float largest) {
  {
    const std::lock_guard lock(totals_mutex_);
    if (contributions_ >= max_contributions_) {
      fail("params/exact_sum", "more than the announced ", max_contributions_, " contributions");
    }
    ++contributions_;
    weight_sum_ += std::llrint(weight * scale_);
  }
  const double factor = weight * scale_;
  const bool small = factor * static_cast<double>(largest) < 0x1p50;
  const size_t num_stripes = (size_ + kStripe - 1) / kStripe;
  // Start at a place that differs between threads, so that concurrent adders rarely meet.
  const size_t start =
      num_stripes == 0 ? 0 : std::hash<std::thread::id>()(std::this_thread::get_id()) % num_stripes;
  for (size_t i = 0; i < num_stripes; ++i) {
    const size_t stripe = (start + i) % num_stripes;
    const size_t begin = stripe * kStripe, count = std::min(size_ - begin, kStripe);
    const std::lock_guard lock(stripes_[stripe]);
    (small ? add_small : add_large)(x.data() + begin, factor, sums_.data() + begin, count);
  }
}

void ExactAccumulator::mean(double divisor, std::span<float> out) const {
  ESPALIER_CHECK(out.size() == size_ && divisor > 0, out.size(), " ", divisor);
  const double factor = 1.0 / scale_;
  for (size_t i = 0; i < size_; ++i)
    out[i] = static_cast<float>(static_cast<double>(sums_[i]) * factor / divisor);
}

double ExactAccumulator::sum(size_t index) const {
  return static_cast<double>(sums_[index]) / scale_;
}

double ExactAccumulator::total_weight() const { return static_cast<double>(weight_sum_) / scale_; }

void ExactAccumulator::merge(const ExactAccumulator& other) {
  ESPALIER_CHECK(other.size_ == size_ && other.fraction_bits_ == fraction_bits_);
  ESPALIER_CHECK(contributions_ + other.contributions_ <= max_contributions_);
  for (size_t i = 0; i < size_; ++i) sums_[i] += other.sums_[i];
  weight_sum_ += other.weight_sum_;
  contributions_ += other.contributions_;
}

void ExactAccumulator::reset() {
  std::fill(sums_.begin(), sums_.end(), 0);
  weight_sum_ = 0;
  contributions_ = 0;
}

}  // namespace espalier
