#include "espalier/codec/gauss_tables.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "espalier/base/error.h"

namespace espalier::codec {
namespace {

constexpr double kLn2High = 0x1.62e42fee00000p-1;  // 33 bits: its product with an exponent is exact
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kInverseSqrtTwoPi = 0.39894228040143267794;

double power_of_two(int exponent) {  // of a normal number
  return std::bit_cast<double>(static_cast<uint64_t>(exponent + 1023) << 52);
}

}  // namespace

double exp_fixed(double x) {
  ESPALIER_CHECK(x >= -700 && x <= 700, x);
  const double turns = std::floor(x / std::numbers::ln2 + 0.5);
  const double rest = (x - turns * kLn2High) - turns * kLn2Low;  // |rest| ≤ 0.35
  double sum = 1;
  for (int n = 14; n >= 1; --n) sum = 1 + sum * rest / n;
  return sum * power_of_two(static_cast<int>(turns));
}

double log2_fixed(double x) {
  ESPALIER_CHECK(x >= 0x1p-1022 && x <= 0x1p1023, x);
  const auto bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double mantissa =
      std::bit_cast<double>((bits & ((uint64_t{1} << 52) - 1)) | (uint64_t{1023} << 52));
  if (mantissa > std::numbers::sqrt2) {
    mantissa /= 2;
    ++exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);  // ln m = 2 atanh s, |s| ≤ 0.172
  const double square = s * s;
  double sum = 0;
  for (int n = 23; n >= 1; n -= 2) sum = sum * square + 1.0 / n;
  return exponent + 2 * s * sum / std::numbers::ln2;
}

double normal_density(double x) {
  return std::abs(x) > 37 ? 0 : kInverseSqrtTwoPi * exp_fixed(-x * x / 2);
}

double normal_upper_tail(double x) {
  if (x < 0) return 1 - normal_upper_tail(-x);
  if (x > 37) return 0;
  if (x < 3) {  // Φ(x) − ½ = φ(x)·(x + x³/3 + x⁵/15 + …)
    double term = x, sum = x;
    for (int n = 3; term > sum * 1e-17 && n < 200; n += 2) {
      term *= x * x / n;
      sum += term;
    }
    return 0.5 - normal_density(x) * sum;
  }
  double fraction = x;  // Laplace's continued fraction x + 1/(x + 2/(x + 3/…)), from its end
  for (int n = 14 + static_cast<int>(900 / (x * x)); n >= 1; --n) fraction = x + n / fraction;
  return normal_density(x) / fraction;
}

double normal_cell(double low, double high) {
  ESPALIER_CHECK(low <= high, low, " > ", high);
  if (low > 0) return normal_upper_tail(low) - normal_upper_tail(high);
  if (high < 0) return normal_upper_tail(-high) - normal_upper_tail(-low);
  return 1 - normal_upper_tail(high) - normal_upper_tail(-low);
}

double normal_quantile(double p) {
  ESPALIER_CHECK(p > 0 && p < 1, p);
  if (p < 0.5) return -normal_quantile(1 - p);
  const double tail = 1 - p;
  // Abramowitz and Stegun 26.2.22 (error 3e-3), then Halley's method, which cubes the error.
  const double t = std::sqrt(-2 * std::numbers::ln2 * log2_fixed(tail));
  double x = t - (2.30753 + 0.27061 * t) / (1 + t * (0.99229 + 0.04481 * t));
  for (int i = 0; i < 3; ++i) {
    const double ratio = (tail - normal_upper_tail(x)) / normal_density(x);
    x -= ratio / (1 + ratio * x / 2);
  }
  return x;
}

LloydMax lloyd_max(size_t levels) {
  ESPALIER_CHECK(levels >= 2 && levels <= 256, levels);
  const size_t count = levels - 1;
  constexpr double kFar = 40;  // stands for infinity: no mass beyond
  std::vector<double> edges(levels + 1);
  edges.front() = -kFar;
  edges.back() = kFar;
  // High-rate theory: thresholds at the quantiles of density φ^(1/3), which is N(0, 3).
  for (size_t i = 1; i <= count; ++i) {
    edges[i] =
        std::numbers::sqrt3 * normal_quantile(static_cast<double>(i) / static_cast<double>(levels));
  }
  std::vector<double> centroids(levels), below(levels), above(levels), upper(count), change(count);
  LloydMax result;
  for (int iteration = 0; iteration < 60; ++iteration) {
    result.mse = 1;
    for (size_t i = 0; i < levels; ++i) {
      const double mass = normal_cell(edges[i], edges[i + 1]);
      const double low = normal_density(edges[i]), high = normal_density(edges[i + 1]);
      centroids[i] = (low - high) / mass;
      below[i] = low * (centroids[i] - edges[i]) / mass;       // ∂centroid / ∂ lower edge
      above[i] = high * (edges[i + 1] - centroids[i]) / mass;  // ∂centroid / ∂ upper edge
      result.mse -= mass * centroids[i] * centroids[i];
    }
    // Tridiagonal Newton system for F_i = edge_i − (centroid_{i−1} + centroid_i)/2 = 0.
    double largest = 0;
    for (size_t i = 0; i < count; ++i) {
      const double sub = i == 0 ? 0 : -below[i] / 2;
      double diagonal = 1 - (above[i] + below[i + 1]) / 2;
      double residual = edges[i + 1] - (centroids[i] + centroids[i + 1]) / 2;
      if (i > 0) {
        diagonal -= sub * upper[i - 1];
        residual -= sub * change[i - 1];
      }
      upper[i] = -above[i + 1] / 2 / diagonal;
      change[i] = residual / diagonal;
    }
    for (size_t i = count; i-- > 0;) {
      if (i + 1 < count) change[i] -= upper[i] * change[i + 1];
      largest = std::max(largest, std::abs(change[i]));
    }
    double damping = 1;  // keeps the edges in order
    for (size_t i = 0; i + 1 < count; ++i) {
      const double gap = edges[i + 2] - edges[i + 1], closing = change[i + 1] - change[i];
      if (closing > 0.5 * gap) damping = std::min(damping, 0.5 * gap / closing);
    }
    for (size_t i = 0; i < count; ++i) edges[i + 1] -= damping * change[i];
    if (largest < 1e-12) break;
  }
  for (size_t i = 0; i < levels / 2; ++i) {  // exactly antisymmetric
    const double half = (centroids[levels - 1 - i] - centroids[i]) / 2;
    centroids[levels - 1 - i] = half;
    centroids[i] = -half;
  }
  if (levels % 2 == 1) centroids[levels / 2] = 0;
  result.centroids = centroids;
  for (size_t i = 0; i < count; ++i)
    result.thresholds.push_back((centroids[i] + centroids[i + 1]) / 2);
  return result;
}

double dithered_entropy(double step) {
  ESPALIER_CHECK(step > 1e-3 && step < 1e3, step);
  // The integrand has period 1 and is even in u: the midpoint rule over half a period converges
  // exponentially.
  const int points = std::clamp(static_cast<int>(16 * step), 4, 128);
  const int reach = static_cast<int>(9 / step) + 2;
  double sum = 0;
  for (int point = 0; point < points; ++point) {
    const double u = (point + 0.5) / (2.0 * points);
    double edge = (-reach - 0.5 - u) * step;
    for (int k = -reach; k <= reach; ++k) {
      const double next = (k + 0.5 - u) * step;
      const double mass = normal_cell(edge, next);
      if (mass > 1e-30) sum -= mass * log2_fixed(mass);
      edge = next;
    }
  }
  return sum / points;
}

double dithered_step(double bits) {
  ESPALIER_CHECK(bits >= 0.25 && bits <= 8, bits);
  // Secant method in log2 step, from the high-rate value h(N) − bits; the entropy is convex and
  // decreasing there.
  double x0 = 2.0471 - bits, x1 = x0 + 0.05;
  const auto entropy = [](double log_step) {
    return dithered_entropy(exp_fixed(log_step * std::numbers::ln2));
  };
  double f0 = entropy(x0) - bits, f1 = entropy(x1) - bits;
  for (int i = 0; i < 40 && std::abs(f1) > 1e-12 && f1 != f0; ++i) {
    const double next = std::clamp(x1 - f1 * (x1 - x0) / (f1 - f0), x1 - 1.0, x1 + 1.0);
    x0 = x1;
    f0 = f1;
    x1 = next;
    f1 = entropy(x1) - bits;
  }
  return exp_fixed(x1 * std::numbers::ln2);
}

}  // namespace espalier::codec
