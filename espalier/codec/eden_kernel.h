#pragma once

#include <cstddef>
#include <cstdint>

// The vector inner loops of EdenCode; eden_test.cpp has the plain formulas.
namespace espalier::codec::detail {

inline constexpr size_t kEdenSlack = 16;  // buffers have this many elements beyond the block
inline constexpr size_t kEdenGrid = 1024;

struct EdenLevels {
  size_t levels;
  const float* thresholds;  // levels − 1, then two infinities
  const float* centroids;   // levels
  const int32_t* grid;      // [floor(64·y) + 512]: thresholds surely below y, lacking at most two
};

// indices[i] = number of thresholds ≤ x[i]·factor; q[i] = its centroid. Reads and writes up to
// kEdenSlack elements beyond n.
void eden_quantize(const EdenLevels& levels, const float* x, float factor, size_t n,
                   uint8_t* indices, float* q);

// out[i] = table[indices[i]]; `indices` has kEdenSlack readable elements beyond n, all valid.
void eden_rebuild(const float* table, const uint8_t* indices, size_t n, float* out);

}  // namespace espalier::codec::detail
