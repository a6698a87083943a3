#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Counter-based randomness: every random number of a run is a pure function of a Key and a
// position, and keys are derived seed → round → client → purpose. There is no global generator, so
// the numbers do not depend on threads, ranks or order.
//
// The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011).
namespace espalier {

// What a derived key is for. The values are part of the reproducibility contract: never renumber,
// only append.
enum class Purpose : uint64_t {
  kSelection = 1,
  kPartition = 2,
  kInitialization = 3,
  kShuffle = 4,
  kAugmentation = 5,
  kDownlink = 6,
  kUplink = 7,
  kSubmodel = 8,
  kNoise = 9,
  kData = 10,
  kDropout = 11,
  kStrategy = 12,
  kDevices = 13,
  kExploration = 14,
  kEvaluation = 15,
};

// One Philox4x32-10 block: four random 32-bit words for a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, uint64_t key);

// A 64-bit key. Copyable value; deriving never changes the parent.
class Key {
 public:
  explicit constexpr Key(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }

  // The child named `tag`: children of one key with different tags are independent streams.
  Key child(uint64_t tag) const;
  Key child(Purpose purpose) const {
    return child(static_cast<uint64_t>(purpose) | (uint64_t{1} << 63));
  }

  friend constexpr bool operator==(Key, Key) = default;

 private:
  uint64_t value_;
};

// The sequence of random numbers of one key. Not thread-safe; cheap to make.
class Stream {
 public:
  explicit Stream(Key key, uint64_t position = 0)
      : key_(key.value()), block_(position / 4), next_(4) {
    if (position % 4 != 0) {
      refill();
      next_ = static_cast<unsigned>(position % 4);
    }
  }

  uint32_t u32() {
    if (next_ == 4) refill();
    return words_[next_++];
  }
  uint64_t u64() {
    const uint64_t low = u32();
    return low | (static_cast<uint64_t>(u32()) << 32);
  }
  // Uniform in [0, 1) with 24 (float) or 53 (double) random bits.
  float uniform_float() { return static_cast<float>(u32() >> 8) * 0x1p-24f; }
  double uniform() { return static_cast<double>(u64() >> 11) * 0x1p-53; }
  // Uniform in [0, n), exactly (rejection); n > 0.
  uint64_t below(uint64_t n);
  // Standard normal (Box–Muller; two per pair of uniforms).
  double normal();
  // Gamma(shape, 1), shape > 0 (Marsaglia and Tsang 2000).
  double gamma(double shape);
  // Dirichlet with all concentrations equal to alpha; sums to 1.
  std::vector<double> dirichlet(double alpha, size_t size);

  // Fisher–Yates.
  template <class T>
  void shuffle(std::span<T> values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

 private:
  void refill();

  uint64_t key_;
  uint64_t block_;
  std::array<uint32_t, 4> words_{};
  unsigned next_;
  double spare_normal_ = 0;
  bool has_spare_ = false;
};

// `count` distinct values of [0, n) in increasing order, drawn without replacement; count ≤ n.
// Memory O(count); used for client selection out of millions and for subsampling.
std::vector<uint64_t> sample_without_replacement(Key key, uint64_t n, uint64_t count);

// Where `value` < n goes in a permutation of [0, n) that the key names: a bijection in O(1) memory
// (a Feistel network over the next power of four, walked until it lands inside).
uint64_t permuted(Key key, uint64_t n, uint64_t value);

}  // namespace espalier
