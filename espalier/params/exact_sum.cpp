#include "espalier/params/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "espalier/base/error.h"

namespace espalier {

namespace {

int ceil_log2(double value) { return static_cast<int>(std::ceil(std::log2(std::max(value, 1e-300)))); }

// Rounds to the nearest integer, ties to even, for |value| < 2^51; adding and subtracting 1.5·2^52 in the bit pattern is what
// compilers vectorize everywhere. Larger values go through llrint.
inline int64_t round_small(double value) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5·2^52
  return std::bit_cast<int64_t>(value + kMagic) - std::bit_cast<int64_t>(kMagic);
}

// For non-negative floats the order of bit patterns is the order of values, with infinity and NaN above everything.
float largest_magnitude(std::span<const float> x) {
  uint32_t largest = 0;
  for (float value : x) largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  return std::bit_cast<float>(largest);
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
    fail("params/exact_sum", "the weights of one round are too large to be summed exactly: ", max_contributions,
         " contributions of up to ", max_weight, "; scale the weights down");
  }
  // Tiny weights need no more than 62 bits either: the scale stays a normal double.
  fraction_bits_ = std::min(62 - spent - kLogMaxValue, 200);
  scale_ = std::ldexp(1.0, fraction_bits_);
}

void ExactAccumulator::check(std::span<const float> x, double weight) const {
  if (x.size() != size_) fail("params/exact_sum", "expected ", size_, " values, got ", x.size());
  if (!(weight >= 0) || weight > max_weight_) {
    fail("params/exact_sum", "expected a weight from 0 to ", max_weight_, ", got ", weight);
  }
  const float largest = largest_magnitude(x);
  if (!(largest <= kMaxValue)) {
    fail("params/exact_sum", "expected finite values of magnitude at most ", kMaxValue, ", got ", largest,
         "; training diverged (lower the learning rate) or the sender is faulty");
  }
}

void ExactAccumulator::add_checked(std::span<const float> x, double weight) {
  {
    const std::lock_guard lock(totals_mutex_);
    if (contributions_ >= max_contributions_) {
      fail("params/exact_sum", "more than the announced ", max_contributions_, " contributions");
    }
    ++contributions_;
    weight_sum_ += std::llrint(weight * scale_);
  }
  const double factor = weight * scale_;
  // The fast rounding holds below 2^51; values are seldom near kMaxValue, so it is decided stripe by stripe.
  const size_t num_stripes = (size_ + kStripe - 1) / kStripe;
  // Start at a place that differs between threads, so that concurrent adders rarely meet.
  const size_t start = num_stripes == 0 ? 0 : (std::bit_cast<size_t>(x.data()) >> 12) % num_stripes;
  for (size_t i = 0; i < num_stripes; ++i) {
    const size_t stripe = (start + i) % num_stripes;
    const size_t begin = stripe * kStripe, count = std::min(size_ - begin, kStripe);
    const std::span<const float> part = x.subspan(begin, count);
    const bool small = factor * static_cast<double>(largest_magnitude(part)) < 0x1p50;
    const std::lock_guard lock(stripes_[stripe]);
    int64_t* sums = sums_.data() + begin;
    const float* values = part.data();
    if (small) {
      for (size_t j = 0; j < count; ++j) sums[j] += round_small(static_cast<double>(values[j]) * factor);
    } else {
      for (size_t j = 0; j < count; ++j) sums[j] += std::llrint(static_cast<double>(values[j]) * factor);
    }
  }
}

void ExactAccumulator::mean(double divisor, std::span<float> out) const {
  ESPALIER_CHECK(out.size() == size_ && divisor > 0, out.size(), " ", divisor);
  const double factor = 1.0 / scale_;
  for (size_t i = 0; i < size_; ++i) out[i] = static_cast<float>(static_cast<double>(sums_[i]) * factor / divisor);
}

double ExactAccumulator::sum(size_t index) const { return static_cast<double>(sums_[index]) / scale_; }

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
