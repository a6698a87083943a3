#include "espalier/codec/eden_kernel.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "espalier/codec/eden_kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace espalier::codec::HWY_NAMESPACE {
namespace {  // names like quantize recur in other kernels of this namespace
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DI = hn::Rebind<int32_t, DF>;
using DU = hn::Rebind<uint32_t, DF>;
using D8 = hn::Rebind<uint8_t, DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;

constexpr size_t kFewLevels = 16;  // up to here comparing with every threshold beats the table

HWY_INLINE VI count_all(const detail::EdenLevels& levels, VF y) {
  const DF df;
  const DI di;
  VI count = hn::Zero(di);
  for (size_t i = 0; i + 1 < levels.levels; ++i) {
    const auto above = hn::RebindMask(di, hn::Ge(y, hn::Set(df, levels.thresholds[i])));
    count = hn::Sub(count, hn::VecFromMask(di, above));
  }
  return count;
}

HWY_INLINE VI count_by_grid(const detail::EdenLevels& levels, VF y) {
  const DF df;
  const DI di;
  const VF cell = hn::Add(hn::Mul(y, hn::Set(df, 64.0f)), hn::Set(df, 512.0f));
  const VF inside =
      hn::Min(hn::Max(cell, hn::Zero(df)), hn::Set(df, static_cast<float>(detail::kEdenGrid - 1)));
  VI count = hn::GatherIndex(di, levels.grid, hn::ConvertTo(di, inside));
  for (int correction = 0; correction < 2; ++correction) {
    const auto above = hn::RebindMask(di, hn::Ge(y, hn::GatherIndex(df, levels.thresholds, count)));
    count = hn::Sub(count, hn::VecFromMask(di, above));
  }
  return count;
}

void quantize(const detail::EdenLevels& levels, const float* HWY_RESTRICT x, float factor, size_t n,
              uint8_t* HWY_RESTRICT indices, float* HWY_RESTRICT q) {
  const DF df;
  const VF scale = hn::Set(df, factor);
  const bool few = levels.levels <= kFewLevels;
  for (size_t i = 0; i < n; i += hn::Lanes(df)) {
    const VF y = hn::Mul(hn::LoadU(df, x + i), scale);
    const VI index = few ? count_all(levels, y) : count_by_grid(levels, y);
    hn::StoreU(hn::TruncateTo(D8(), hn::BitCast(DU(), index)), D8(), indices + i);
    hn::StoreU(hn::GatherIndex(df, levels.centroids, index), df, q + i);
  }
}

void rebuild(const float* HWY_RESTRICT table, const uint8_t* HWY_RESTRICT indices, size_t n,
             float* HWY_RESTRICT out) {
  const DF df;
  const size_t lanes = hn::Lanes(df);
  const auto values = [&](size_t i) HWY_ATTR {
    return hn::GatherIndex(df, table,
                           hn::BitCast(DI(), hn::PromoteTo(DU(), hn::LoadU(D8(), indices + i))));
  };
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(values(i), df, out + i);
  if (i < n) {
    alignas(64) float rest[16];
    hn::Store(values(i), df, rest);
    std::copy_n(rest, n - i, out + i);
  }
}

}  // namespace
}  // namespace espalier::codec::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::codec {

HWY_EXPORT(quantize);
HWY_EXPORT(rebuild);

namespace detail {

void eden_quantize(const EdenLevels& levels, const float* x, float factor, size_t n,
                   uint8_t* indices, float* q) {
  HWY_DYNAMIC_DISPATCH(quantize)(levels, x, factor, n, indices, q);
}

void eden_rebuild(const float* table, const uint8_t* indices, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(rebuild)(table, indices, n, out);
}

}  // namespace detail
}  // namespace espalier::codec
#endif  // HWY_ONCE
