#include "espalier/codec/trellis_kernel.h"

#include <algorithm>
#include <cfloat>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "espalier/codec/trellis_kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace espalier::codec::HWY_NAMESPACE {
namespace {  // names like quantize recur in other kernels of this namespace
namespace hn = hwy::HWY_NAMESPACE;
using detail::kTrellisLanes;
using detail::TrellisScratch;
using detail::TrellisTable;

using DI = hn::CappedTag<int32_t, 16>;
using DU = hn::Rebind<uint32_t, DI>;
using DF = hn::Rebind<float, DI>;
using D16 = hn::Rebind<int16_t, DI>;
using DU16 = hn::Rebind<uint16_t, DI>;
using D8 = hn::Rebind<uint8_t, DI>;
using VI = hn::Vec<DI>;
using VF = hn::Vec<DF>;

HWY_INLINE VI load_bytes(const uint8_t* from) {
  return hn::BitCast(DI(), hn::PromoteTo(DU(), hn::LoadU(D8(), from)));
}
HWY_INLINE void store_bytes(VI v, uint8_t* to) {
  hn::StoreU(hn::TruncateTo(D8(), hn::BitCast(DU(), v)), D8(), to);
}

bool prepare(const float* HWY_RESTRICT x, float factor, int32_t limit, size_t n,
             int32_t* HWY_RESTRICT y, int32_t* HWY_RESTRICT turns) {
  const DI di;
  const DF df;
  VI any = hn::Zero(di);
  for (size_t i = 0; i < n; i += hn::Lanes(di)) {
    const VI whole = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), hn::Set(df, factor)));
    const VI sign = hn::ShiftRight<31>(whole);
    const VI magnitude = hn::Sub(hn::Xor(whole, sign), sign);
    const VI over = hn::Max(hn::Sub(magnitude, hn::Set(di, limit)), hn::Zero(di));
    const VI turn = hn::ShiftRight<8>(hn::Add(over, hn::Set(di, 255)));
    const VI folded = hn::Sub(magnitude, hn::ShiftLeft<8>(turn));
    any = hn::Or(any, turn);
    hn::StoreU(hn::Sub(hn::Xor(folded, sign), sign), di, y + i);
    hn::StoreU(hn::Sub(hn::Xor(turn, sign), sign), di, turns + i);
  }
  return hn::GetLane(hn::MaxOfLanes(di, any)) != 0;
}

HWY_INLINE VI branch_cost(VI candidate, VI y) {
  const DI di;
  const VI level = hn::ShiftRight<16>(candidate);
  const VI error = hn::Sub(y, hn::ShiftLeft<6>(level));
  return hn::Add(hn::Mul(error, error), hn::And(candidate, hn::Set(di, 0xFFFF)));
}

// The smaller metric, and bit `kBit` of `decision` set where it is the second.
template <int kBit>
HWY_INLINE VI select(VI first, VI second, VI& decision) {
  const DI di;
  const auto take_second = hn::Lt(second, first);
  decision = hn::Or(decision, hn::IfThenElseZero(take_second, hn::Set(di, 1 << kBit)));
  return hn::Min(first, second);
}

void search(const TrellisTable& table, const int32_t* HWY_RESTRICT y, size_t steps,
            TrellisScratch& scratch, int16_t* HWY_RESTRICT levels, uint8_t* HWY_RESTRICT states) {
  const DI di;
  const D16 d16;
  const auto* candidates = reinterpret_cast<const int32_t*>(table.candidates);
  const VI offset = hn::Set(di, table.limit);
  for (size_t lane = 0; lane < kTrellisLanes; lane += hn::Lanes(di)) {
    // At most 512 steps of less than 2^18 each: no metric reaches 2^31, and no path that began
    // elsewhere than in 0 survives.
    VI m0 = hn::Zero(di), m1 = hn::Set(di, 1 << 29), m2 = m1, m3 = m1;
    for (size_t step = 0; step < steps; ++step) {
      const size_t at = step * kTrellisLanes + lane;
      const VI value = hn::LoadU(di, y + at);
      const VI cell = hn::ShiftRight<detail::kTrellisCellShift>(hn::Add(value, offset));
      const VI index = hn::ShiftLeft<2>(cell);
      const VI a = hn::GatherIndex(di, candidates, index),
               b = hn::GatherIndex(di, candidates + 1, index);
      const VI c = hn::GatherIndex(di, candidates + 2, index),
               d = hn::GatherIndex(di, candidates + 3, index);
      const VI cost_a = branch_cost(a, value), cost_b = branch_cost(b, value);
      const VI cost_c = branch_cost(c, value), cost_d = branch_cost(d, value);
      VI decision = hn::Zero(di);
      const VI n0 = select<0>(hn::Add(m0, cost_a), hn::Add(m1, cost_b), decision);
      const VI n1 = select<1>(hn::Add(m2, cost_c), hn::Add(m3, cost_d), decision);
      const VI n2 = select<2>(hn::Add(m0, cost_b), hn::Add(m1, cost_a), decision);
      const VI n3 = select<3>(hn::Add(m2, cost_d), hn::Add(m3, cost_c), decision);
      m0 = n0;
      m1 = n1;
      m2 = n2;
      m3 = n3;
      store_bytes(decision, scratch.decisions + at);
      hn::StoreU(hn::DemoteTo(d16, hn::ShiftRight<16>(a)), d16, scratch.levels[0] + at);
      hn::StoreU(hn::DemoteTo(d16, hn::ShiftRight<16>(b)), d16, scratch.levels[1] + at);
      hn::StoreU(hn::DemoteTo(d16, hn::ShiftRight<16>(c)), d16, scratch.levels[2] + at);
      hn::StoreU(hn::DemoteTo(d16, hn::ShiftRight<16>(d)), d16, scratch.levels[3] + at);
    }
    const VI one = hn::Set(di, 1);
    const VI low = hn::Min(m0, m1), high = hn::Min(m2, m3);
    const VI low_state = hn::IfThenElseZero(hn::Lt(m1, m0), one);
    const VI high_state = hn::Add(hn::Set(di, 2), hn::IfThenElseZero(hn::Lt(m3, m2), one));
    VI state = hn::IfThenElse(hn::Lt(high, low), high_state, low_state);
    for (size_t step = steps; step-- > 0;) {
      const size_t at = step * kTrellisLanes + lane;
      const VI decision = load_bytes(scratch.decisions + at);
      // Bit `state` of the decision, by comparing: variable shifts are slow on old machines.
      const VI mask = hn::IfThenElse(hn::Lt(state, hn::Set(di, 2)), hn::Add(state, one),
                                     hn::ShiftLeft<2>(hn::Sub(state, one)));
      const auto second = hn::Ne(hn::And(decision, mask), hn::Zero(di));
      const VI quantizer = hn::And(state, one);  // that of the state before
      const VI odd = hn::Xor(hn::IfThenElseZero(second, one), hn::ShiftRight<1>(state));
      const auto is_odd = hn::Eq(odd, one);
      const VI level0 =
          hn::IfThenElse(is_odd, hn::PromoteTo(di, hn::LoadU(d16, scratch.levels[1] + at)),
                         hn::PromoteTo(di, hn::LoadU(d16, scratch.levels[0] + at)));
      const VI level1 =
          hn::IfThenElse(is_odd, hn::PromoteTo(di, hn::LoadU(d16, scratch.levels[3] + at)),
                         hn::PromoteTo(di, hn::LoadU(d16, scratch.levels[2] + at)));
      const VI level = hn::IfThenElse(hn::Eq(quantizer, one), level1, level0);
      state = hn::Add(hn::Add(quantizer, quantizer), hn::IfThenElseZero(second, one));
      hn::StoreU(hn::DemoteTo(d16, level), d16, levels + at);
      store_bytes(state, states + at);
    }
  }
}

bool symbols(const int16_t* HWY_RESTRICT levels, const uint8_t* HWY_RESTRICT states, int reach,
             size_t n, uint16_t* HWY_RESTRICT joint, float* HWY_RESTRICT level_values) {
  const DI di;
  const DF df;
  const VI one = hn::Set(di, 1), zero = hn::Zero(di), largest = hn::Set(di, reach);
  VI highest = zero;
  for (size_t i = 0; i < n; i += hn::Lanes(di)) {
    const VI level = hn::PromoteTo(di, hn::LoadU(D16(), levels + i));
    const VI state = load_bytes(states + i);
    // Q0: k = level / 2. Q1: k = (level + sgn level) / 2, so the low bit of |level| rounds up.
    const VI sign = hn::ShiftRight<31>(level);
    const VI magnitude = hn::ShiftRight<1>(hn::Add(hn::Sub(hn::Xor(level, sign), sign), one));
    highest = hn::Max(highest, magnitude);
    const VI k = hn::Sub(hn::Xor(magnitude, sign), sign);
    const VI escape = hn::Sub(hn::Set(di, 2 * reach + 2), hn::And(k, one));
    const VI symbol = hn::IfThenElse(hn::Lt(largest, magnitude), escape, hn::Add(k, largest));
    const VI whole = hn::Or(hn::ShiftLeft<8>(state), symbol);
    hn::StoreU(hn::TruncateTo(DU16(), hn::BitCast(DU(), whole)), DU16(), joint + i);
    hn::StoreU(hn::ConvertTo(df, level), df, level_values + i);
  }
  return hn::GetLane(hn::MaxOfLanes(di, highest)) > reach;
}

bool rebuild(const uint16_t* HWY_RESTRICT joint, int reach, float scale, size_t n,
             float* HWY_RESTRICT out) {
  const DI di;
  const DF df;
  const size_t lanes = hn::Lanes(di);
  const VI one = hn::Set(di, 1), offset = hn::Set(di, reach);
  const VF step = hn::Set(df, scale), largest = hn::Set(df, FLT_MAX),
           smallest = hn::Set(df, -FLT_MAX);
  VI highest = hn::Zero(di);
  const auto values = [&](size_t at) HWY_ATTR {
    const VI whole = hn::BitCast(di, hn::PromoteTo(DU(), hn::LoadU(DU16(), joint + at)));
    const VI symbol = hn::And(whole, hn::Set(di, 0xFF));
    highest = hn::Max(highest, symbol);
    const VI k = hn::Sub(symbol, offset);
    const VI sign = hn::ShiftRight<31>(k);
    const VI positive = hn::IfThenElseZero(hn::Gt(k, hn::Zero(di)), one);
    const VI second = hn::ShiftRight<9>(whole);  // 1 in states 2 and 3
    // 2k − sgn k where the state uses Q1.
    const VI sgn = hn::And(hn::Or(sign, positive), hn::Sub(hn::Zero(di), second));
    const VF value = hn::Mul(hn::ConvertTo(df, hn::Sub(hn::Add(k, k), sgn)), step);
    return hn::Min(hn::Max(value, smallest), largest);
  };
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(values(i), df, out + i);
  if (i < n) {
    alignas(64) float rest[16];
    hn::Store(values(i), df, rest);
    std::copy_n(rest, n - i, out + i);
  }
  return hn::GetLane(hn::MaxOfLanes(di, highest)) > 2 * reach;
}

}  // namespace
}  // namespace espalier::codec::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::codec {

HWY_EXPORT(prepare);
HWY_EXPORT(search);
HWY_EXPORT(symbols);
HWY_EXPORT(rebuild);

namespace detail {

bool trellis_prepare(const float* x, float factor, int32_t limit, size_t n, int32_t* y,
                     int32_t* turns) {
  return HWY_DYNAMIC_DISPATCH(prepare)(x, factor, limit, n, y, turns);
}

void trellis_search(const TrellisTable& table, const int32_t* y, size_t steps,
                    TrellisScratch& scratch, int16_t* levels, uint8_t* states) {
  HWY_DYNAMIC_DISPATCH(search)(table, y, steps, scratch, levels, states);
}

bool trellis_symbols(const int16_t* levels, const uint8_t* states, int reach, size_t n,
                     uint16_t* joint, float* level_values) {
  return HWY_DYNAMIC_DISPATCH(symbols)(levels, states, reach, n, joint, level_values);
}

bool trellis_rebuild(const uint16_t* joint, int reach, float scale, size_t n, float* out) {
  return HWY_DYNAMIC_DISPATCH(rebuild)(joint, reach, scale, n, out);
}

}  // namespace detail
}  // namespace espalier::codec
#endif  // HWY_ONCE
