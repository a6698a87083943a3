#pragma once

#include <cstddef>
#include <vector>

// The standard normal law and its optimal scalar quantizers, computed with +, −, ×, ÷ and sqrt
// alone (no libm), in a fixed order: the same bits on every IEEE-754 machine, so that sender and
// receiver may each compute their tables.
namespace espalier::codec {

double exp_fixed(double x);          // e^x for x in [−700, 700], relative error < 1e-14
double log2_fixed(double x);         // log2 x for normal x > 0, absolute error < 1e-13
double normal_density(double x);     // φ(x)
double normal_upper_tail(double x);  // P(N > x), relative error < 1e-12 for |x| ≤ 37
double normal_quantile(double p);    // Φ⁻¹(p) for p in (0, 1)
// P(low < N < high), without cancellation in either tail.
double normal_cell(double low, double high);

// The Lloyd–Max quantizer of N(0,1): thresholds halfway between centroids, centroids at the means
// of their cells (Max 1960; Lloyd 1982). Newton's method on the thresholds from the high-rate
// solution.
struct LloydMax {
  std::vector<double> centroids;   // `levels` of them, increasing, antisymmetric
  std::vector<double> thresholds;  // levels − 1
  double mse;                      // E(N − q(N))² = 1 − Σ P(cell)·centroid²
};
// levels in [2, 256].
LloydMax lloyd_max(size_t levels);

// Subtractive dither on N(0,1) at step Δ, the integer rint(N/Δ + u) coded knowing u uniform in [−½,
// ½): E H(integer | u) in bits.
double dithered_entropy(double step);
// The step at which dithered_entropy is `bits` (0.25 to 8). 1 bit 2.57225, 2 bits 1.08245, 3 bits
// .52243, 4 bits .25902.
double dithered_step(double bits);

}  // namespace espalier::codec
