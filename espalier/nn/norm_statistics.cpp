#include "espalier/nn/norm_statistics.h"

#include <algorithm>

#include "espalier/nn/graph.h"

namespace espalier::nn {

void join_groups(const NormGroups& shape, double* first, double* second) {
  const size_t width = shape.channels / shape.groups;
  const auto rows = static_cast<double>(shape.rows);
  for (size_t g = 0; g < shape.groups; ++g) {
    double mean = 0, squares = 0;
    for (size_t c = g * width; c < (g + 1) * width; ++c) mean += first[c];
    mean /= static_cast<double>(width);
    for (size_t c = g * width; c < (g + 1) * width; ++c) {
      squares += second[c] + rows * (first[c] - mean) * (first[c] - mean);
    }
    for (size_t c = g * width; c < (g + 1) * width; ++c) {
      first[c] = mean;
      second[c] = squares / shape.size();
    }
  }
}

void update_statistics(const NormGroups& shape, const double* mean, const double* variance,
                       float* running_mean, float* running_variance, float* counter) {
  const double unbiased = shape.size() / std::max(1.0, shape.size() - 1);
  for (size_t c = 0; c < shape.channels; ++c) {
    running_mean[c] += kNormMomentum * (static_cast<float>(mean[c]) - running_mean[c]);
    running_variance[c] +=
        kNormMomentum * (static_cast<float>(variance[c] * unbiased) - running_variance[c]);
  }
  *counter += 1;
}

}  // namespace espalier::nn
