#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

// What is said of several seeds. Seeds are the sample; nothing here depends on the order in which
// runs ended.
namespace espalier::study {

// A figure by seed.
using BySeed = std::map<int64_t, double>;

// mean = Σx/n;  sd = √(Σ(x − mean)²/(n − 1)), absent below two values.
struct Moments {
  size_t n = 0;
  double mean = 0;
  std::optional<double> sd{};
};
// nullopt of no values at all.
std::optional<Moments> moments(std::span<const double> values);
std::optional<Moments> moments(const BySeed& values);

// The t with P(|T| ≤ t) = `confidence` for Student's T of `freedom` ≥ 1 degrees of freedom.
// Abramowitz and Stegun 1964, 26.7.3 and 26.7.4 (finite sums for whole degrees), inverted by
// bisection; about twelve digits up to 10^4 degrees.
double student_t(size_t freedom, double confidence = 0.95);

// d_s = value_s − baseline_s of every seed that both have. A seed fixes partition, initial weights
// and selection in both, so that what they have in common cancels:
//   mean d̄ = Σd/n,  95 % interval d̄ ± t(n − 1)·sd(d)/√n, absent below two seeds.
struct Difference {
  Moments moments;
  std::optional<double> half_width{};
};
std::optional<Difference> paired_difference(const BySeed& values, const BySeed& baseline);

// Σ values / Σ baseline over the seeds that both have; nullopt when there are none or the baseline
// is not above zero.
std::optional<double> ratio(const BySeed& values, const BySeed& baseline);

// The points that no other one beats: at most as much cost and at least as much value, and better
// in one of the two. Indices in the order of increasing cost.
struct Point {
  double cost = 0, value = 0;
};
std::vector<size_t> pareto_front(std::span<const Point> points);

}  // namespace espalier::study
