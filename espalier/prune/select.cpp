#include "espalier/prune/select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/params/unit_rows.h"
#include "espalier/prune/bits.h"
#include "espalier/prune/criteria.h"
#include "espalier/prune/mask_kernel.h"

namespace espalier::prune {
namespace {

constexpr std::string_view kWhere = "prune/select";

// Unsigned integers in the order of the numbers. Adding 0 turns −0 into +0.
uint32_t ordered(float value) {
  const auto bits = std::bit_cast<uint32_t>(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
float number_of(uint32_t order) {
  return std::bit_cast<float>((order & 0x80000000u) != 0 ? order & 0x7fffffffu : ~order);
}

void refuse_nan(std::span<const float> values) {
  bool found = false;
  for (const float value : values) found |= std::isnan(value);
  if (found) {
    fail(kWhere,
         "expected numbers to choose from, got NaN; the model diverged (lower the learning "
         "rate) or a client is faulty");
  }
}

// By the upper half of the bits, then by the lower half of those that share the upper one.
float select(const std::vector<std::span<const float>>& parts, uint64_t k) {
  std::vector<uint64_t> histogram(65536);
  const auto find = [&](uint64_t& rank) {
    uint32_t bin = 0;
    while (histogram[bin] < rank) rank -= histogram[bin++];
    return bin;
  };
  for (const auto values : parts) {
    for (const float value : values) ++histogram[ordered(value) >> 16];
  }
  const uint32_t upper = find(k);
  std::fill(histogram.begin(), histogram.end(), 0);
  for (const auto values : parts) {
    for (const float value : values) {
      const uint32_t order = ordered(value);
      if (order >> 16 == upper) ++histogram[order & 0xffff];
    }
  }
  return number_of(upper << 16 | find(k));
}

// Of a few values a copy is cheaper than two histograms.
float select_few(std::span<const float> values, uint64_t k) {
  std::vector<float> copy(values.begin(), values.end());
  const auto place = copy.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(copy.begin(), place, copy.end());
  return *place + 0.0f;
}

void check_share(double share, std::string_view what) {
  if (!(share >= 0 && share <= 1)) fail(kWhere, "expected ", what, " from 0 to 1, got ", share);
}

// Every unit's incoming weights get their mean; by group and unit, the means.
std::vector<std::vector<float>> average_by_unit(ParameterSet& scores) {
  const ParameterLayout& layout = scores.layout();
  std::vector<std::vector<double>> sums, counts;
  for (const UnitGroup& group : layout.groups()) {
    sums.emplace_back(static_cast<size_t>(group.size), 0.0);
    counts.emplace_back(static_cast<size_t>(group.size), 0.0);
  }
  for_each_incoming_row(layout, [&](size_t group, size_t unit, size_t begin, size_t end) {
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += static_cast<double>(scores.values()[i]);
    sums[group][unit] += sum;
    counts[group][unit] += static_cast<double>(end - begin);
  });
  std::vector<std::vector<float>> means;
  for (size_t g = 0; g < sums.size(); ++g) {
    means.emplace_back();
    for (size_t u = 0; u < sums[g].size(); ++u) {
      if (counts[g][u] == 0) break;  // a group that no weight computes has no means
      means.back().push_back(static_cast<float>(sums[g][u] / counts[g][u]));
    }
  }
  for_each_incoming_row(layout, [&](size_t group, size_t unit, size_t begin, size_t end) {
    std::fill(scores.values().begin() + static_cast<std::ptrdiff_t>(begin),
              scores.values().begin() + static_cast<std::ptrdiff_t>(end), means[group][unit]);
  });
  return means;
}

}  // namespace

float kth_smallest(std::span<const float> values, uint64_t k) {
  ESPALIER_CHECK(k >= 1 && k <= values.size(), k, " of ", values.size());
  refuse_nan(values);
  return values.size() < 32768 ? select_few(values, k) : select({values}, k);
}

float kth_smallest(const ParameterSet& scores, const std::vector<size_t>& tensors, uint64_t k) {
  std::vector<std::span<const float>> parts;
  uint64_t size = 0;
  for (const size_t t : tensors) {
    parts.push_back(scores.values(scores.layout().tensors()[t]));
    refuse_nan(parts.back());
    size += parts.back().size();
  }
  ESPALIER_CHECK(k >= 1 && k <= size, k, " of ", size);
  return select(parts, k);
}

std::vector<size_t> prunable_tensors(const ParameterLayout& layout, bool weights_only) {
  std::vector<size_t> tensors;
  for (size_t t = 0; t < layout.tensors().size(); ++t) {
    const Role role = layout.tensors()[t].role;
    const bool weight = role == Role::kWeight || role == Role::kEmbedding;
    if (weights_only ? weight : is_trainable(role)) tensors.push_back(t);
  }
  return tensors;
}

uint64_t pruned_count(double fraction, uint64_t n) {
  check_share(fraction, "a fraction");
  const double product = fraction * static_cast<double>(n), nearest = std::round(product);
  return static_cast<uint64_t>(std::fabs(product - nearest) < 1e-9 ? nearest : std::ceil(product));
}

Mask choose_mask(const ParameterSet& given, const PruneRule& rule) {
  const ParameterLayout& layout = given.layout();
  check_share(rule.min_keep, "min_keep");
  const std::vector<size_t> tensors = prunable_tensors(layout, rule.weights_only);
  uint64_t size = 0;
  for (const size_t t : tensors) size += static_cast<uint64_t>(layout.tensors()[t].size);
  const uint64_t count = pruned_count(rule.fraction, size);
  if (count == 0) return Mask::all(given.shared_layout());

  ParameterSet averaged;
  std::vector<std::vector<float>> means;
  if (rule.by_unit) {
    averaged = given;
    means = average_by_unit(averaged);
  }
  const ParameterSet& scores = rule.by_unit ? averaged : given;
  const float threshold = kth_smallest(scores, tensors, count);

  std::vector<uint64_t> words = Mask::all(given.shared_layout()).words();
  for (const size_t t : tensors) {
    const ParameterInfo& tensor = layout.tensors()[t];
    const auto values = scores.values(tensor);
    const auto begin = static_cast<size_t>(tensor.offset), end = begin + values.size();
    for (size_t i = begin; i < end; i += 64) {
      const size_t n = std::min<size_t>(64, end - i);
      uint64_t go = 0;
      for (size_t j = 0; j < n; ++j)
        go |= uint64_t{values[i - begin + j] > threshold ? 0u : 1u} << j;
      words[i / 64] &= ~(go << (i % 64));
      if (i % 64 + n > 64) words[i / 64 + 1] &= ~(go >> (64 - i % 64));
    }
    if (rule.by_unit && computes_units(tensor)) continue;
    const uint64_t least = pruned_count(rule.min_keep, values.size());
    if (count_bits(words, begin, end) >= least) continue;
    for_each_greatest(values, least, [&](size_t i) { set_bits(words, begin + i, begin + i + 1); });
  }
  if (rule.by_unit && rule.min_keep > 0) {
    std::vector<std::vector<bool>> stays;
    for (const auto& group : means) {
      stays.emplace_back(group.size(), false);
      for_each_greatest(group, pruned_count(rule.min_keep, group.size()),
                        [&](size_t unit) { stays.back()[unit] = true; });
    }
    for_each_incoming_row(layout, [&](size_t group, size_t unit, size_t begin, size_t end) {
      if (stays[group][unit]) set_bits(words, begin, end);
    });
  }
  return Mask(given.shared_layout(), std::move(words));
}

void zero_random(std::span<float> values, const ParameterLayout& layout, double fraction,
                 bool weights_only, Key key) {
  ESPALIER_CHECK(values.size() == static_cast<size_t>(layout.size()), values.size());
  check_share(fraction, "a fraction");
  std::vector<uint64_t> words;
  for (const size_t t : prunable_tensors(layout, weights_only)) {
    const ParameterInfo& tensor = layout.tensors()[t];
    const auto n = static_cast<uint64_t>(tensor.size);
    const auto zeros = static_cast<uint64_t>(std::llround(fraction * static_cast<double>(n)));
    // The smaller side is drawn, as bits of probability `share`/256 at first; given their number,
    // every set of that many is as likely as any other. Then single bits are added or taken away
    // at random until the number is right, which leaves that so.
    const bool draws_zeros = zeros <= n - zeros;
    const uint64_t wanted = draws_zeros ? zeros : n - zeros;
    const auto share = n == 0 ? 0u : static_cast<uint32_t>(wanted * 256 / n);
    Stream stream(key.child(t));
    words.assign(num_words(n), 0);
    if (share != 0) {
      for (uint64_t& word : words) {
        // Bit by bit of the share, from its lowest: or makes (1 + p)/2 of p, and makes p/2.
        for (auto bit = static_cast<uint32_t>(std::countr_zero(share)); bit < 8; ++bit) {
          const uint64_t draw = stream.u64();
          word = (share >> bit & 1) != 0 ? word | draw : word & draw;
        }
      }
      if (n % 64 != 0) words.back() &= low_bits(n % 64);
    }
    uint64_t drawn = count_bits(words, 0, n);
    const uint64_t missing = drawn < wanted ? 1 : 0;
    while (drawn != wanted) {
      const uint64_t at = stream.below(n), bit = uint64_t{1} << (at % 64);
      if (((words[at / 64] & bit) == 0) != (missing == 1)) continue;
      words[at / 64] ^= bit;
      drawn = missing == 1 ? drawn + 1 : drawn - 1;
    }
    zero_unset(words.data(), draws_zeros ? ~uint64_t{0} : 0, values.data() + tensor.offset, n);
  }
}

}  // namespace espalier::prune
