#include "espalier/base/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <unordered_set>

#include "espalier/base/error.h"

namespace espalier {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, uint64_t key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  auto key0 = static_cast<uint32_t>(key);
  auto key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

Key Key::child(uint64_t tag) const {
  // The third counter word keeps derivation apart from the blocks a Stream draws (its counters have
  // 0 there).
  const auto words = philox4x32(
      {static_cast<uint32_t>(tag), static_cast<uint32_t>(tag >> 32), 0x45535041u, 0}, value_);
  return Key(words[0] | (static_cast<uint64_t>(words[1]) << 32));
}

void Stream::refill() {
  words_ =
      philox4x32({static_cast<uint32_t>(block_), static_cast<uint32_t>(block_ >> 32), 0, 0}, key_);
  ++block_;
  next_ = 0;
}

uint64_t Stream::below(uint64_t n) {
  ESPALIER_CHECK(n > 0);
  if (n <= UINT32_MAX) {  // Lemire's multiply-shift with rejection.
    uint64_t product = uint64_t{u32()} * n;
    if (static_cast<uint32_t>(product) < n) {
      const auto threshold = static_cast<uint32_t>((uint64_t{1} << 32) % n);
      while (static_cast<uint32_t>(product) < threshold) product = uint64_t{u32()} * n;
    }
    return product >> 32;
  }
  const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
  uint64_t value = u64();
  while (value >= limit) value = u64();
  return value % n;
}

double Stream::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
  const double angle = 2.0 * std::numbers::pi * uniform();
  spare_normal_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

double Stream::gamma(double shape) {
  ESPALIER_CHECK(shape > 0);
  if (shape < 1) {  // Boost the shape by one and correct with a power of a uniform.
    const double boosted = gamma(shape + 1);
    return boosted * std::pow(1.0 - uniform(), 1.0 / shape);
  }
  const double d = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = normal();
    const double v = std::pow(1.0 + c * x, 3);
    if (v <= 0) continue;
    if (std::log1p(-uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

std::vector<double> Stream::dirichlet(double alpha, size_t size) {
  std::vector<double> shares(size);
  double total = 0;
  for (double& share : shares) total += share = gamma(alpha);
  // Tiny alphas underflow to all zeros; the limit of the distribution is a single one.
  if (!(total > 0)) {
    std::fill(shares.begin(), shares.end(), 0.0);
    shares[below(size)] = 1;
    return shares;
  }
  for (double& share : shares) share /= total;
  return shares;
}

std::vector<uint64_t> sample_without_replacement(Key key, uint64_t n, uint64_t count) {
  ESPALIER_CHECK(count <= n);
  Stream stream(key);
  std::vector<uint64_t> chosen;
  chosen.reserve(count);
  // Floyd's algorithm: O(count) memory whatever n is.
  std::unordered_set<uint64_t> seen;
  seen.reserve(count);
  for (uint64_t upper = n - count; upper < n; ++upper) {
    const uint64_t candidate = stream.below(upper + 1);
    chosen.push_back(seen.insert(candidate).second ? candidate : upper);
    if (chosen.back() == upper) seen.insert(upper);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

uint64_t permuted(Key key, uint64_t n, uint64_t value) {
  ESPALIER_CHECK(value < n, value, " of ", n);
  int half = 1;  // bits of each half: 4^half ≥ n
  while (half < 32 && (uint64_t{1} << (2 * half)) < n) ++half;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = value >> half, right = value & mask;
    for (uint32_t round = 0; round < 4; ++round) {
      const auto mixed =
          philox4x32({static_cast<uint32_t>(right), static_cast<uint32_t>(right >> 32), round, 0},
                     key.value());
      const uint64_t next = left ^ (mixed[0] & mask);
      left = right;
      right = next;
    }
    value = (left << half) | right;
  } while (value >= n);
  return value;
}

}  // namespace espalier
