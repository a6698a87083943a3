#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/params/coordinate_map.h"
#include "espalier/params/parameter_set.h"

// The exact weighted sum Σ w_k·x_k of float32 vectors: the same bytes for every order of arrival,
// number of threads and transport, in O(size) memory.
//
// Each term w_k·x_k,i is rounded once, by itself, to a multiple of 2^-fraction_bits and added as an
// int64; integer addition is associative, so nothing else matters. With S contributions of weights
// ≤ W and values |x| ≤ kMaxValue,
//   fraction_bits = 62 − ⌈log2 S⌉ − ⌈log2 W⌉ − log2 kMaxValue,
// and no sum can overflow. The error of a sum is at most S·2^-(fraction_bits+1); for 10 clients of
// 600 samples that is 7e-11 of a sum, 1e-14 of a mean.
//
// The bound is for what is trained. Running statistics of unscaled inputs and counters have other
// sizes: wide() coordinates are summed in 128 bits, up to 2^60 in magnitude and in finer steps.
namespace espalier {

class ExactAccumulator {
 public:
  static constexpr int kLogMaxValue = 12;
  static constexpr float kMaxValue = 4096.0f;  // 2^kLogMaxValue
  static constexpr int kLogMaxWide = 60;
  static constexpr float kMaxWide = 0x1p60f;

  // Coordinates [begin, end).
  struct Range {
    size_t begin = 0, end = 0;
  };
  // Those of a layout's statistics and counters, ascending.
  static std::vector<Range> wide(const ParameterLayout& layout);

  // `size` values, of which those in `wide` (ascending, disjoint) are wide; at most
  // `max_contributions` ≥ 1 calls of add(), each with a weight of at most `max_weight` > 0. Throws
  // Error when contributions·weight exceeds 2^38 (fewer than 12 fraction bits would be left).
  ExactAccumulator(size_t size, uint64_t max_contributions, double max_weight,
                   std::vector<Range> wide = {});

  // What a contribution covered: `map` as it was given to add_checked (null: all coordinates).
  struct Covering {
    const CoordinateMap* map = nullptr;
    double weight = 0;
  };

  // Adds weight·x. Throws Error, with nothing added, when x is not `size` long, a value is not
  // finite or beyond kMaxValue (a wide one: kMaxWide), the weight is negative, not finite or above
  // max_weight. Any thread.
  void add(std::span<const float> x, double weight) { add_checked(x, weight, check(x, weight)); }
  // The two halves of add(), for callers that must check several sums before they change one:
  // check() returns the largest magnitude in x, wide values apart, which add_checked() needs.
  // With a map, x holds the values of its smaller buffer and is added to the coordinates that these
  // stand for; all others count as zero. The map's full size must be size().
  // `known`: the largest magnitude in all of x, where somebody has looked already (not finite: so
  // is a value).
  float check(std::span<const float> x, double weight, const CoordinateMap* map = nullptr,
              std::optional<float> known = std::nullopt) const;
  void add_checked(std::span<const float> x, double weight, float largest,
                   const CoordinateMap* map = nullptr);
  // Several that cover everything at once: each sum is read and written once for all of them.
  struct Contribution {
    std::span<const float> x;
    double weight = 0;
    float largest = 0;  // as check() has returned it
  };
  void add_checked(std::span<const Contribution> contributions);

  // out[i] = sum[i] / divisor, rounded once to float32; a sum of zero gives −0, because x + (−0) is
  // x bit for bit for every x, −0 too. Not while another thread adds. divisor > 0.
  void mean(double divisor, std::span<float> out) const;
  // out[i] = sum[i] / Σ weights of the contributions that cover i; −0 where that is zero. The sums
  // of weights are exact like total_weight(), so that coordinates which all contributions cover get
  // mean(total_weight())'s bits. All maps must belong to one full layout. O(contributions + longest
  // row of a tensor) memory beside `out`.
  void mean_covered(std::span<const Covering> contributions, std::span<float> out) const;
  double sum(size_t index) const;

  // Σ weights, exact for weights that are multiples of 2^-fraction_bits (sample counts are); also
  // order-independent.
  double total_weight() const;
  uint64_t contributions() const { return contributions_; }
  int fraction_bits() const { return fraction_bits_; }
  size_t size() const { return size_; }

  // Partial sums of several processes: everything that was added here, as integers. Those of
  // accumulators of equal size, bounds and wide ranges, at most 2^14 of them, may be added word by
  // word, in any order and by whatever adds int64 (MPI_Reduce, a leaf of a tree of servers); the
  // result, added here, gives the bits that one accumulator would have. add_words() throws Error
  // when more was added than announced. Neither while another thread adds.
  size_t num_words() const { return size_ + 3 * wide_sums_.size() + 2; }
  void words(size_t begin, std::span<int64_t> out) const;  // [begin, begin + out.size())
  void add_words(size_t begin, std::span<const int64_t> words);
  void reset();

 private:
  __extension__ using Int128 = __int128;
  static constexpr size_t kStripe =
      1 << 11;  // values per lock, which is then held for well under a microsecond

  void count(double weight);
  bool is_small(double weight, float largest) const;
  void add_mapped(std::span<const float> x, double factor, bool small, const CoordinateMap& map);
  void add_wide(std::span<const float> x, double weight, const CoordinateMap* map);
  // body(place in x, place in the full buffer, how many) for every run of wide values.
  template <class Body>
  void each_wide(const CoordinateMap* map, Body&& body) const;
  bool is_wide(size_t index) const;
  Int128 wide_sum(size_t index) const;
  int64_t tail_word(size_t word) const;  // of what follows sums_ in words()
  // A wide sum over a weight in fixed point.
  float wide_share(size_t index, int64_t weight) const;

  size_t size_;
  uint64_t max_contributions_;
  double max_weight_;
  int fraction_bits_;
  double scale_;
  std::vector<int64_t> sums_;
  std::vector<Range> wide_, narrow_;  // of the full buffer; together they cover it
  std::vector<size_t> wide_begin_;    // where each wide range stands in wide_sums_
  int wide_bits_;
  std::vector<Int128> wide_sums_;
  std::mutex wide_mutex_;
  int64_t weight_sum_ = 0;
  uint64_t contributions_ = 0;
  std::mutex totals_mutex_;
  std::unique_ptr<std::mutex[]> stripes_;
};

}  // namespace espalier
