#pragma once

#include <cstddef>

// What plain and gated normalization layers share: the statistics of a block of `rows` × `channels`
// values. Arrays are `channels` long.
namespace espalier::nn {

struct NormGroups {
  size_t rows, channels, groups;
  // Values that one mean is taken over.
  double size() const { return static_cast<double>(rows * (channels / groups)); }
};

// first, second: each channel's mean and squared deviations (norm_kernels.h, moments); replaced by
// its group's mean and variance.
void join_groups(const NormGroups& shape, double* first, double* second);

// Moves the running statistics towards a batch's mean and (biased) variance, as PyTorch does.
void update_statistics(const NormGroups& shape, const double* mean, const double* variance,
                       float* running_mean, float* running_variance, float* counter);

}  // namespace espalier::nn
