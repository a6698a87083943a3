#include "espalier/study/statistics.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "espalier/base/error.h"

namespace espalier::study {

namespace {

// P(|T| ≤ t), with θ = atan(t/√ν).
double within(double t, size_t freedom) {
  const double theta = std::atan(t / std::sqrt(static_cast<double>(freedom)));
  const double sine = std::sin(theta), cosine = std::cos(theta);
  // Odd: cos + 2/3 cos³ + (2·4)/(3·5) cos⁵ + …; even: 1 + 1/2 cos² + (1·3)/(2·4) cos⁴ + ….
  const bool odd = freedom % 2 == 1;
  double term = odd ? cosine : 1, sum = 0;
  for (size_t power = odd ? 1 : 0; power + 2 <= freedom; power += 2) {
    sum += term;
    const auto p = static_cast<double>(power);
    term *= cosine * cosine * (p + 1) / (p + 2);
  }
  return odd ? 2 / std::numbers::pi * (theta + sine * sum) : sine * sum;
}

// The seeds that both have, one list each.
std::pair<std::vector<double>, std::vector<double>> common(const BySeed& values,
                                                           const BySeed& baseline) {
  std::pair<std::vector<double>, std::vector<double>> both;
  for (const auto& [seed, value] : values) {
    const auto found = baseline.find(seed);
    if (found == baseline.end()) continue;
    both.first.push_back(value);
    both.second.push_back(found->second);
  }
  return both;
}

}  // namespace

std::optional<Moments> moments(std::span<const double> values) {
  if (values.empty()) return std::nullopt;
  Moments out{.n = values.size()};
  const auto n = static_cast<double>(values.size());
  out.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  if (values.size() < 2) return out;
  double squares = 0;
  for (const double value : values) squares += (value - out.mean) * (value - out.mean);
  out.sd = std::sqrt(squares / (n - 1));
  return out;
}

std::optional<Moments> moments(const BySeed& values) {
  std::vector<double> list;
  for (const auto& [seed, value] : values) list.push_back(value);
  return moments(list);
}

double student_t(size_t freedom, double confidence) {
  ESPALIER_CHECK(freedom >= 1 && confidence > 0 && confidence < 1);
  double low = 0, high = 1;
  while (within(high, freedom) < confidence) high *= 2;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (within(middle, freedom) < confidence ? low : high) = middle;
  }
  return high;
}

std::optional<Difference> paired_difference(const BySeed& values, const BySeed& baseline) {
  auto [mine, theirs] = common(values, baseline);
  for (size_t i = 0; i < mine.size(); ++i) mine[i] -= theirs[i];
  const auto found = moments(mine);
  if (!found) return std::nullopt;
  Difference out{.moments = *found};
  if (found->sd)
    out.half_width =
        student_t(found->n - 1) * *found->sd / std::sqrt(static_cast<double>(found->n));
  return out;
}

std::optional<double> ratio(const BySeed& values, const BySeed& baseline) {
  const auto [mine, theirs] = common(values, baseline);
  const double below = std::accumulate(theirs.begin(), theirs.end(), 0.0);
  if (below <= 0) return std::nullopt;
  return std::accumulate(mine.begin(), mine.end(), 0.0) / below;
}

std::vector<size_t> pareto_front(std::span<const Point> points) {
  std::vector<size_t> order(points.size()), front;
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return points[a].cost != points[b].cost ? points[a].cost < points[b].cost
                                            : points[a].value > points[b].value;
  });
  for (const size_t i : order) {
    // Equal in both is beaten by nobody.
    const bool equal = !front.empty() && points[front.back()].cost == points[i].cost &&
                       points[front.back()].value == points[i].value;
    if (front.empty() || equal || points[i].value > points[front.back()].value) front.push_back(i);
  }
  return front;
}

}  // namespace espalier::study
