#pragma once

#include <cstddef>
#include <cstdint>

// The vector inner loops of TrellisCode: Viterbi search in integers, 32 trellises side by side;
// trellis_test.cpp has the plain search. Coordinates are in units of Δ/64. A level is a
// reconstruction point in units of Δ: 2k for Q0, 2k − sgn k for Q1.
namespace espalier::codec::detail {

inline constexpr size_t kTrellisLanes = 32;
inline constexpr int kTrellisUnit = 64;      // per Δ
inline constexpr int kTrellisCellShift = 2;  // cells of Δ/16 share their candidates
inline constexpr size_t kTrellisMaxSteps = 512;

// For every cell of the coordinate the best level of each kind: Q0 even k, Q0 odd k, Q1 even k, Q1
// odd k.
struct TrellisTable {
  const uint32_t* candidates;  // [4·cell + kind]: level << 16 | rate cost, λ·bits in units² (level
                               // signed, cost unsigned)
  int32_t
      limit;  // coordinates in [−limit, limit] have cells; cell = (y + limit) >> kTrellisCellShift
};

struct TrellisScratch {
  alignas(64) uint8_t decisions[kTrellisMaxSteps * kTrellisLanes];
  alignas(64) int16_t levels[4][kTrellisMaxSteps * kTrellisLanes];  // by kind
};

// y[i] = rint(x[i]·factor), moved by multiples of 4Δ (256 units) into [−limit, limit]: that keeps
// parities, and the level of the search moves back by 4·turns[i]. Returns whether any moved. Writes
// whole vectors: up to 16 elements beyond n, from x's memory.
bool trellis_prepare(const float* x, float factor, int32_t limit, size_t n, int32_t* y,
                     int32_t* turns);

// Coordinate 32·step + lane. Every trellis starts in state 0 and ends anywhere. levels[i]: the
// chosen level; states[i]: the state before coordinate i. steps ≤ kTrellisMaxSteps.
void trellis_search(const TrellisTable& table, const int32_t* y, size_t steps,
                    TrellisScratch& scratch, int16_t* levels, uint8_t* states);

// joint = state << 8 | (k + reach), or the escape 2·reach + 1 for odd and 2·reach + 2 for even k.
// reach is even. Returns whether there are escapes. n: a multiple of 32. level_values: the levels
// as floats.
bool trellis_symbols(const int16_t* levels, const uint8_t* states, int reach, size_t n,
                     uint16_t* joint, float* level_values);

// out = level·scale for joint symbols; escapes give 0 and true.
bool trellis_rebuild(const uint16_t* joint, int reach, float scale, size_t n, float* out);

}  // namespace espalier::codec::detail
