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

// The same rounding, and sums[columns[j]] += the result. Two passes, because only the first can be
// vectorized.
constexpr size_t kChunk = 512;
ESPALIER_KERNEL void round_small(const float* __restrict x, double factor, int64_t* __restrict out,
                                 size_t count) {
  constexpr double kMagic = 6755399441055744.0;
  constexpr auto kMagicBits = std::bit_cast<int64_t>(kMagic);
  for (size_t i = 0; i < count; ++i)
    out[i] = std::bit_cast<int64_t>(static_cast<double>(x[i]) * factor + kMagic) - kMagicBits;
}

void add_columns(const float* x, double factor, bool small, const uint32_t* columns, int64_t* sums,
                 size_t count) {
  int64_t rounded[kChunk];
  for (size_t begin = 0; begin < count; begin += kChunk) {
    const size_t n = std::min(kChunk, count - begin);
    if (small) {
      round_small(x + begin, factor, rounded, n);
    } else {
      for (size_t j = 0; j < n; ++j)
        rounded[j] = std::llrint(static_cast<double>(x[begin + j]) * factor);
    }
    for (size_t j = 0; j < n; ++j) sums[columns[begin + j]] += rounded[j];
  }
}

// The small columns [first, last) of a row whose columns are `runs`.
void add_runs(const float* row, double factor, bool small,
              const std::vector<CoordinateMap::Run>& runs, int64_t* sums, size_t first,
              size_t last) {
  const auto ends_before = [](const CoordinateMap::Run& run, size_t column) {
    return run.small + run.count <= column;
  };
  auto run = std::lower_bound(runs.begin(), runs.end(), first, ends_before);
  for (size_t j = first; j < last; ++run) {
    const size_t end = std::min<size_t>(run->small + run->count, last);
    (small ? add_small : add_large)(row + j, factor, sums + run->full + (j - run->small), end - j);
    j = end;
  }
}

// out[i] = sums[i] / divisor, and −0 for 0: the quotient of the negated sum is then +0.
ESPALIER_KERNEL void divide(const int64_t* __restrict sums, double divisor, float* __restrict out,
                            size_t count) {
  for (size_t i = 0; i < count; ++i)
    out[i] = static_cast<float>(-(static_cast<double>(-sums[i]) / divisor));
}

ESPALIER_KERNEL void divide_each(const int64_t* __restrict sums, const int64_t* __restrict divisors,
                                 float* __restrict out, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const double quotient = static_cast<double>(-sums[i]) / static_cast<double>(divisors[i]);
    out[i] = divisors[i] == 0 ? -0.0f : static_cast<float>(-quotient);
  }
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

float ExactAccumulator::check(std::span<const float> x, double weight,
                              const CoordinateMap* map) const {
  if (map != nullptr && map->full_size() != size_) {
    fail("params/exact_sum", "expected a sub-model of a model of ", size_, " values, got one of ",
         map->full_size());
  }
  const size_t expected = map == nullptr ? size_ : map->small_size();
  if (x.size() != expected)
    fail("params/exact_sum", "expected ", expected, " values, got ", x.size());
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

void ExactAccumulator::add_checked(std::span<const float> x, double weight, float largest,
                                   const CoordinateMap* map) {
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
  if (map != nullptr) return add_mapped(x, factor, small, *map);
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

void ExactAccumulator::add_mapped(std::span<const float> x, double factor, bool small,
                                  const CoordinateMap& map) {
  size_t num_rows = 0;
  for (const auto& block : map.blocks()) num_rows += block.rows.size();
  // As above, threads start at different places: at different rows.
  const size_t start =
      num_rows == 0 ? 0 : std::hash<std::thread::id>()(std::this_thread::get_id()) % num_rows;
  // Rows [first, last) of all blocks. Their coordinates increase, so the lock of a stripe is taken
  // once for everything that falls into it.
  const auto add_rows = [&](size_t first, size_t last) {
    std::unique_lock<std::mutex> lock;
    size_t locked_end = 0;  // of the stripe whose lock is held
    size_t row = 0;
    for (const auto& block : map.blocks()) {
      const size_t begin = std::max(row, first) - row;
      row += block.rows.size();
      if (row <= first || block.columns.empty()) continue;
      const size_t end =
          block.rows.size() - (row > last ? std::min(row - last, block.rows.size()) : 0);
      const size_t num_columns = block.columns.size();
      for (size_t r = begin; r < end; ++r) {
        const size_t base = block.full_offset + block.rows[r] * block.full_columns;
        const float* const values = x.data() + block.small_offset + r * num_columns;
        for (size_t j = 0; j < num_columns;) {
          const size_t at = base + block.columns[j];
          if (at >= locked_end) {
            if (lock.owns_lock()) lock.unlock();
            lock = std::unique_lock(stripes_[at / kStripe]);
            locked_end = (at / kStripe + 1) * kStripe;
          }
          size_t next = num_columns;  // the first column beyond this stripe
          if (base + block.columns.back() >= locked_end) {
            next = static_cast<size_t>(
                std::lower_bound(block.columns.begin() + static_cast<std::ptrdiff_t>(j),
                                 block.columns.end(), locked_end - base) -
                block.columns.begin());
          }
          int64_t* const sums = sums_.data() + base;
          if (block.whole_rows()) {
            (small ? add_small : add_large)(values + j, factor, sums + block.columns[j], next - j);
          } else if (!block.runs.empty()) {
            add_runs(values, factor, small, block.runs, sums, j, next);
          } else {
            add_columns(values + j, factor, small, block.columns.data() + j, sums, next - j);
          }
          j = next;
        }
      }
    }
  };
  add_rows(start, num_rows);
  add_rows(0, start);
}

void ExactAccumulator::mean(double divisor, std::span<float> out) const {
  ESPALIER_CHECK(out.size() == size_ && divisor > 0, out.size(), " ", divisor);
  // The division by a power of two is exact, so it may as well be the divisor's.
  divide(sums_.data(), divisor * scale_, out.data(), size_);
}

void ExactAccumulator::mean_covered(std::span<const Covering> contributions,
                                    std::span<float> out) const {
  ESPALIER_CHECK(out.size() == size_, out.size());
  int64_t everywhere = 0;  // weight that covers all coordinates
  std::vector<const CoordinateMap*> maps;
  std::vector<int64_t> weights;
  for (const auto& [map, weight] : contributions) {
    ESPALIER_CHECK(weight >= 0 && weight <= max_weight_, weight);
    const int64_t fixed = std::llrint(weight * scale_);
    if (map == nullptr) {
      everywhere += fixed;
      continue;
    }
    ESPALIER_CHECK(map->full_size() == size_, map->full_size());
    ESPALIER_CHECK(maps.empty() || map->blocks().size() == maps[0]->blocks().size());
    maps.push_back(map);
    weights.push_back(fixed);
  }
  if (maps.empty()) {
    const std::vector<int64_t> divisors(std::min(size_, kStripe), everywhere);
    for (size_t begin = 0; begin < size_; begin += kStripe) {
      divide_each(sums_.data() + begin, divisors.data(), out.data() + begin,
                  std::min(kStripe, size_ - begin));
    }
    return;
  }
  std::vector<int64_t> divisors;
  for (size_t b = 0; b < maps[0]->blocks().size(); ++b) {
    const auto& shape = maps[0]->blocks()[b];
    divisors.assign(shape.full_columns, everywhere);
    // Per map: whether the divisors contain it, and the next of its rows.
    std::vector<bool> counted(maps.size(), false);
    std::vector<size_t> next(maps.size(), 0);
    for (size_t row = 0; row < shape.full_rows; ++row) {
      for (size_t k = 0; k < maps.size(); ++k) {
        const auto& block = maps[k]->blocks()[b];
        ESPALIER_CHECK(block.full_offset == shape.full_offset &&
                       block.full_columns == shape.full_columns);
        const bool covers = next[k] < block.rows.size() && block.rows[next[k]] == row;
        if (covers) ++next[k];
        if (covers == counted[k]) continue;
        // Integers: what is added and taken away again leaves nothing behind.
        const int64_t change = covers ? weights[k] : -weights[k];
        for (const uint32_t column : block.columns) divisors[column] += change;
        counted[k] = covers;
      }
      const size_t at = shape.full_offset + row * shape.full_columns;
      divide_each(sums_.data() + at, divisors.data(), out.data() + at, shape.full_columns);
    }
  }
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
