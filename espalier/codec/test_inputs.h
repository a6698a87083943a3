#pragma once

#include <span>
#include <vector>

#include "espalier/base/random.h"

// Vectors for the tests and benches of this module.
namespace espalier::codec {

inline std::vector<float> gaussian(size_t n, uint64_t seed) {
  Stream stream{Key(seed)};
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(stream.normal());
  return x;
}

// Sums of uniforms, about Gaussian, and one large value: no mathematics library in the way of
// recorded bytes. n: above 5.
inline std::vector<float> portable_input(size_t n) {
  Stream stream{Key(42)};
  std::vector<float> x(n);
  for (float& v : x) {
    v = -2;
    for (int i = 0; i < 4; ++i) v += stream.uniform_float();
  }
  x[5] = 40;
  return x;
}

// ‖x − y‖².
inline double squared_error(std::span<const float> x, std::span<const float> y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (double{y[i]} - x[i]) * (double{y[i]} - x[i]);
  return sum;
}

}  // namespace espalier::codec
