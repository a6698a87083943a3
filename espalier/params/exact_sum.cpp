#include "espalier/params/exact_sum.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/params/exact_sum_kernels.h"

namespace espalier {

using namespace exact_sum;

namespace {

int ceil_log2(double value) {
  return static_cast<int>(std::ceil(std::log2(std::max(value, 1e-300))));
}

// Of both; NaN when either is.
float largest_of(float largest, std::span<const float> x) {
  const float other = largest_magnitude(x);
  return other <= largest ? largest : other;
}

__extension__ using Int128 = __int128;

// The integer nearest to value·2^bits, ties to even.
Int128 fixed_point(double value, int bits) {
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);  // in [1/2, 1)
  const int shift = exponent - 53 + bits;
  if (shift < 0) return std::llrint(std::ldexp(value, bits));
  return static_cast<Int128>(std::ldexp(mantissa, 53)) * (static_cast<Int128>(1) << shift);
}

// sum / divisor, and −0 for 0, as divide() has it.
float quotient(Int128 sum, double divisor) {
  return static_cast<float>(-(static_cast<double>(-sum) / divisor));
}

}  // namespace

std::vector<ExactAccumulator::Range> ExactAccumulator::wide(const ParameterLayout& layout) {
  std::vector<Range> ranges;
  for (const ParameterInfo& tensor : layout.tensors()) {
    if (is_trainable(tensor.role) || tensor.size == 0) continue;
    const auto begin = static_cast<size_t>(tensor.offset),
               end = begin + static_cast<size_t>(tensor.size);
    ranges.push_back({begin, end});
  }
  return ranges;
}

ExactAccumulator::ExactAccumulator(size_t size, uint64_t max_contributions, double max_weight,
                                   std::vector<Range> wide)
    : size_(size),
      max_contributions_(max_contributions),
      max_weight_(max_weight),
      sums_(size, 0),
      wide_(std::move(wide)),
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
  wide_bits_ = std::min(126 - spent - kLogMaxWide, 200);
  size_t narrow = 0, count = 0;
  for (const Range& range : wide_) {
    ESPALIER_CHECK(range.begin >= narrow && range.begin < range.end && range.end <= size);
    if (range.begin > narrow) narrow_.push_back({narrow, range.begin});
    wide_begin_.push_back(count);
    count += range.end - range.begin;
    narrow = range.end;
  }
  if (narrow < size) narrow_.push_back({narrow, size});
  wide_sums_.resize(count, 0);
}

bool ExactAccumulator::is_wide(size_t index) const {
  const auto after = std::upper_bound(wide_.begin(), wide_.end(), index,
                                      [](size_t i, const Range& range) { return i < range.end; });
  return after != wide_.end() && index >= after->begin;
}

template <class Body>
void ExactAccumulator::each_wide(const CoordinateMap* map, Body&& body) const {
  if (map == nullptr) {
    for (const Range& range : wide_) body(range.begin, range.begin, range.end - range.begin);
    return;
  }
  if (wide_.empty()) return;
  for (const auto& block : map->blocks()) {
    if (block.columns.empty() || !is_wide(block.full_offset)) continue;
    for (size_t r = 0; r < block.rows.size(); ++r) {
      const size_t base = block.full_offset + block.rows[r] * block.full_columns;
      for (size_t j = 0; j < block.columns.size(); ++j)
        body(block.small_offset + r * block.columns.size() + j, base + block.columns[j], 1);
    }
  }
}

float ExactAccumulator::check(std::span<const float> x, double weight, const CoordinateMap* map,
                              std::optional<float> known) const {
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
  float largest = 0;
  if (wide_.empty()) {
    largest = known ? *known : largest_magnitude(x);
  } else if (map == nullptr) {
    for (const Range& range : narrow_)
      largest = largest_of(largest, x.subspan(range.begin, range.end - range.begin));
  } else {
    for (const auto& block : map->blocks()) {
      if (!block.columns.empty() && !is_wide(block.full_offset))
        largest = largest_of(
            largest, x.subspan(block.small_offset, block.rows.size() * block.columns.size()));
    }
  }
  if (!(largest <= kMaxValue)) {
    fail("params/exact_sum", "expected finite values of magnitude at most ", kMaxValue, ", got ",
         largest,
         "; training diverged (lower train.lr, scale inputs that are far from 1) or the "
         "sender is faulty");
  }
  each_wide(map, [&](size_t at, size_t, size_t count) {
    const float wide = largest_magnitude(x.subspan(at, count));
    if (wide <= kMaxWide) return;
    fail("params/exact_sum", "expected finite statistics of magnitude at most 2^", kLogMaxWide,
         ", got ", wide, "; scale the inputs to about 1");
  });
  return largest;
}

void ExactAccumulator::count(double weight) {
  const std::lock_guard lock(totals_mutex_);
  if (contributions_ >= max_contributions_) {
    fail("params/exact_sum", "more than the announced ", max_contributions_, " contributions");
  }
  ++contributions_;
  weight_sum_ += std::llrint(weight * scale_);
}

bool ExactAccumulator::is_small(double weight, float largest) const {
  return weight * scale_ * static_cast<double>(largest) < 0x1p50;
}

void ExactAccumulator::add_checked(std::span<const float> x, double weight, float largest,
                                   const CoordinateMap* map) {
  if (map == nullptr) {
    const Contribution one{x, weight, largest};
    return add_checked({&one, 1});
  }
  count(weight);
  if (!wide_.empty()) add_wide(x, weight, map);
  add_mapped(x, weight * scale_, is_small(weight, largest), *map);
}

void ExactAccumulator::add_checked(std::span<const Contribution> contributions) {
  for (const Contribution& one : contributions) {
    count(one.weight);
    if (!wide_.empty()) add_wide(one.x, one.weight, nullptr);
  }
  const auto small = [&](const Contribution& one) { return is_small(one.weight, one.largest); };
  const auto add_range = [&](size_t begin, size_t end) {
    int64_t* const sums = sums_.data() + begin;
    const size_t count = end - begin;
    std::span<const Contribution> left = contributions;
    while (!left.empty()) {
      const Contribution& one = left[0];
      if (left.size() < 4 || !std::ranges::all_of(left.first(4), small)) {
        add_scaled(one.x.data() + begin, one.weight * scale_, small(one), sums, count);
        left = left.subspan(1);
        continue;
      }
      const double factors[] = {one.weight * scale_, left[1].weight * scale_,
                                left[2].weight * scale_, left[3].weight * scale_};
      add_four(one.x.data() + begin, left[1].x.data() + begin, left[2].x.data() + begin,
               left[3].x.data() + begin, factors, sums, count);
      left = left.subspan(4);
    }
  };
  const size_t num_stripes = (size_ + kStripe - 1) / kStripe;
  // Start at a place that differs between threads, so that concurrent adders rarely meet.
  const size_t start =
      num_stripes == 0 ? 0 : std::hash<std::thread::id>()(std::this_thread::get_id()) % num_stripes;
  for (size_t i = 0; i < num_stripes; ++i) {
    const size_t stripe = (start + i) % num_stripes;
    const size_t begin = stripe * kStripe, end = std::min(size_, begin + kStripe);
    const std::lock_guard lock(stripes_[stripe]);
    if (wide_.empty()) {
      add_range(begin, end);
      continue;
    }
    auto range = std::upper_bound(narrow_.begin(), narrow_.end(), begin,
                                  [](size_t at, const Range& r) { return at < r.end; });
    for (; range != narrow_.end() && range->begin < end; ++range)
      add_range(std::max(begin, range->begin), std::min(end, range->end));
  }
}

void ExactAccumulator::add_wide(std::span<const float> x, double weight, const CoordinateMap* map) {
  const std::lock_guard lock(wide_mutex_);
  size_t range = 0;
  each_wide(map, [&](size_t at, size_t full, size_t count) {
    while (wide_[range].end <= full) ++range;
    Int128* sums = wide_sums_.data() + wide_begin_[range] + (full - wide_[range].begin);
    for (size_t i = 0; i < count; ++i)
      sums[i] += fixed_point(weight * static_cast<double>(x[at + i]), wide_bits_);
  });
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
      if (!wide_.empty() && is_wide(block.full_offset)) continue;
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
            add_scaled(values + j, factor, small, sums + block.columns[j], next - j);
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
  const double wide_divisor = std::ldexp(divisor, wide_bits_);
  each_wide(nullptr, [&](size_t at, size_t, size_t count) {
    for (size_t i = 0; i < count; ++i) out[at + i] = quotient(wide_sum(at + i), wide_divisor);
  });
}

ExactAccumulator::Int128 ExactAccumulator::wide_sum(size_t index) const {
  const auto after = std::upper_bound(wide_.begin(), wide_.end(), index,
                                      [](size_t i, const Range& range) { return i < range.end; });
  return wide_sums_[wide_begin_[static_cast<size_t>(after - wide_.begin())] + index - after->begin];
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
    each_wide(nullptr, [&](size_t at, size_t, size_t count) {
      for (size_t i = 0; i < count; ++i) out[at + i] = wide_share(at + i, everywhere);
    });
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
      if (shape.full_columns > 0 && is_wide(shape.full_offset)) {
        for (size_t column = 0; column < shape.full_columns; ++column)
          out[at + column] = wide_share(at + column, divisors[column]);
      }
    }
  }
}

float ExactAccumulator::wide_share(size_t index, int64_t weight) const {
  if (weight == 0) return -0.0f;
  return quotient(wide_sum(index),
                  std::ldexp(static_cast<double>(weight), wide_bits_ - fraction_bits_));
}

double ExactAccumulator::sum(size_t index) const {
  if (!is_wide(index)) return static_cast<double>(sums_[index]) / scale_;
  return std::ldexp(static_cast<double>(wide_sum(index)), -wide_bits_);
}

double ExactAccumulator::total_weight() const { return static_cast<double>(weight_sum_) / scale_; }

// After the narrow sums: three limbs for each wide sum, 48 bits each and the last one signed, so
// that 2^14 of them can be added in 64 bits; the weights; the contributions.
constexpr int kLimbBits = 48;

int64_t ExactAccumulator::tail_word(size_t word) const {
  if (word == 3 * wide_sums_.size()) return weight_sum_;
  if (word > 3 * wide_sums_.size()) return static_cast<int64_t>(contributions_);
  const Int128 limb = wide_sums_[word / 3] >> (kLimbBits * static_cast<int>(word % 3));
  constexpr Int128 kMask = (Int128{1} << kLimbBits) - 1;
  return static_cast<int64_t>(word % 3 == 2 ? limb : limb & kMask);
}

void ExactAccumulator::words(size_t begin, std::span<int64_t> out) const {
  ESPALIER_CHECK(begin + out.size() <= num_words(), begin, " ", out.size());
  const size_t narrow = std::min(size_, begin + out.size()) - std::min(size_, begin);
  std::copy_n(sums_.begin() + static_cast<std::ptrdiff_t>(std::min(begin, size_)), narrow,
              out.begin());
  for (size_t i = narrow; i < out.size(); ++i) out[i] = tail_word(begin + i - size_);
}

void ExactAccumulator::add_words(size_t begin, std::span<const int64_t> words) {
  ESPALIER_CHECK(begin + words.size() <= num_words(), begin, " ", words.size());
  size_t i = 0;
  for (; i < words.size() && begin + i < size_; ++i) sums_[begin + i] += words[i];
  for (; i < words.size(); ++i) {
    const size_t word = begin + i - size_;
    if (word < 3 * wide_sums_.size()) {
      wide_sums_[word / 3] += static_cast<Int128>(words[i])
                              << (kLimbBits * static_cast<int>(word % 3));
    } else if (word == 3 * wide_sums_.size()) {
      weight_sum_ += words[i];
    } else {
      const auto more = static_cast<uint64_t>(words[i]);
      if (more > max_contributions_ - contributions_)
        fail("params/exact_sum", "more than the announced ", max_contributions_, " contributions");
      contributions_ += more;
    }
  }
}

void ExactAccumulator::reset() {
  std::fill(sums_.begin(), sums_.end(), 0);
  std::fill(wide_sums_.begin(), wide_sums_.end(), 0);
  weight_sum_ = 0;
  contributions_ = 0;
}

}  // namespace espalier
