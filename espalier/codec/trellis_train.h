#pragma once

#include <cstdint>
#include <vector>

#include "espalier/codec/entropy.h"
#include "espalier/codec/trellis_kernel.h"

// The tables of a trellis code, made at start-up by running its own encoder on quantiles of N(0,1).
namespace espalier::codec::detail {

// State after a symbol: kTrellisTransition[2·state + parity of k].
inline constexpr uint8_t kTrellisTransition[8] = {0, 2, 2, 0, 1, 3, 3, 1};

struct TrellisDesign {
  float step = 0;  // Δ for unit variance
  int reach = 0;   // even; k in [−reach, reach] have symbols k + reach, two escapes follow
  int32_t limit = 0;
  std::vector<uint32_t> candidates;
  std::vector<std::vector<double>> weights;  // of the symbols, per state
  double rate = 0;                           // bits per training coordinate
  double error = 0;                          // relative to the variance, with the best scale

  TrellisTable table() const { return {candidates.data(), limit}; }
  EntropyModel model() const;
};

// `lambda`: cost of a bit in units of Δ².
TrellisDesign design_trellis(double bits, double lambda);
// The λ that gives the least error at a rate (measured; see trellis_train.cpp).
double trellis_lambda(double bits);

}  // namespace espalier::codec::detail
