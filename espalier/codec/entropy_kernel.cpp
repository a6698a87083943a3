#include "espalier/codec/entropy_kernel.h"

#include <array>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "espalier/codec/entropy_kernel.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace espalier::codec::detail {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Gathers on x86 from AVX2 on; elsewhere Highway's gathers are scalar code and the plain decoder is
// as fast.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL

// Row m spreads consecutive words over the lanes whose bit is set in m.
struct ExpandTable {
  alignas(32) std::array<std::array<uint32_t, 8>, 256> rows;
};
constexpr ExpandTable make_expand_table() {
  ExpandTable table{};
  for (size_t mask = 0; mask < 256; ++mask) {
    uint32_t next = 0;
    for (size_t lane = 0; lane < 8; ++lane) {
      table.rows[mask][lane] = next;
      if ((mask >> lane) & 1) ++next;
    }
  }
  return table;
}
constexpr ExpandTable kExpand = make_expand_table();

using D32 = hn::Simd<uint32_t, 8, 0>;
using DI32 = hn::Simd<int32_t, 8, 0>;
using D16 = hn::Simd<uint16_t, 8, 0>;
using D8 = hn::Simd<uint8_t, 8, 0>;
using V32 = hn::Vec<D32>;

// One symbol from each of 8 lanes; `context` holds contexts. Returns symbols.
HWY_INLINE V32 decode_step(const RansView& view, V32& state, V32 context, const uint16_t*& word) {
  const D32 d;
  const DI32 di;
  const auto bits = static_cast<unsigned>(view.bits);
  const V32 slot = hn::And(state, hn::Set(d, (1u << bits) - 1));
  const V32 at = hn::Add(slot, hn::ShiftLeftSame(context, view.bits));
  const V32 symbol = hn::And(
      hn::GatherOffset(d, reinterpret_cast<const uint32_t*>(view.slots), hn::BitCast(di, at)),
      hn::Set(d, 0xFF));
  const V32 joint = hn::Or(hn::ShiftLeft<8>(context), symbol);
  const V32 packed = hn::GatherIndex(d, view.frequency, hn::BitCast(di, joint));
  const V32 frequency = hn::And(packed, hn::Set(d, 0xFFFF));
  V32 next = hn::Mul(frequency, hn::ShiftRightSame(state, view.bits));
  next = hn::Add(next, hn::Sub(slot, hn::ShiftRight<16>(packed)));
  const auto low = hn::Lt(hn::BitCast(di, next), hn::Set(di, 1 << 15));
  uint8_t mask_bytes[8] = {};
  hn::StoreMaskBits(di, low, mask_bytes);
  const size_t mask = mask_bytes[0];
  const V32 loaded = hn::PromoteTo(d, hn::LoadU(D16(), word));
  const V32 words = hn::TableLookupLanes(loaded, hn::SetTableIndices(d, kExpand.rows[mask].data()));
  state = hn::IfThenElse(hn::RebindMask(d, low), hn::Or(hn::ShiftLeft<16>(next), words), next);
  word += static_cast<size_t>(__builtin_popcountll(mask));
  return symbol;
}

size_t decode(RansView& view, const uint8_t* HWY_RESTRICT contexts, uint8_t* HWY_RESTRICT symbols,
              size_t count) {
  const D32 d;
  const D8 d8;
  size_t done = 0;
  const uint16_t* word = view.words + view.next_word;
  const uint16_t* const end = view.words + view.num_words;
  const auto enough = [&] { return static_cast<size_t>(end - word) >= view.lanes + 8; };
  if (view.lanes == 32) {  // the states stay in registers
    V32 s0 = hn::LoadU(d, view.states), s1 = hn::LoadU(d, view.states + 8);
    V32 s2 = hn::LoadU(d, view.states + 16), s3 = hn::LoadU(d, view.states + 24);
    for (; done + 32 <= count && enough(); done += 32) {
      const auto part = [&](V32& state, size_t at) HWY_ATTR {
        const V32 context = hn::PromoteTo(d, hn::LoadU(d8, contexts + done + at));
        hn::StoreU(hn::TruncateTo(d8, decode_step(view, state, context, word)), d8,
                   symbols + done + at);
      };
      part(s0, 0);
      part(s1, 8);
      part(s2, 16);
      part(s3, 24);
    }
    hn::StoreU(s0, d, view.states);
    hn::StoreU(s1, d, view.states + 8);
    hn::StoreU(s2, d, view.states + 16);
    hn::StoreU(s3, d, view.states + 24);
  } else {
    for (; done + view.lanes <= count && enough(); done += view.lanes) {
      for (size_t lane = 0; lane < view.lanes; lane += 8) {
        V32 state = hn::LoadU(d, view.states + lane);
        const V32 context = hn::PromoteTo(d, hn::LoadU(d8, contexts + done + lane));
        const V32 symbol = decode_step(view, state, context, word);
        hn::StoreU(state, d, view.states + lane);
        hn::StoreU(hn::TruncateTo(d8, symbol), d8, symbols + done + lane);
      }
    }
  }
  view.next_word = static_cast<size_t>(word - view.words);
  return done;
}

size_t decode_trellis(RansView& view, const uint8_t* HWY_RESTRICT transition,
                      uint8_t* HWY_RESTRICT contexts, uint16_t* HWY_RESTRICT joint, size_t count) {
  const D32 d;
  const D16 d16;
  size_t done = 0;
  const uint16_t* word = view.words + view.next_word;
  const uint16_t* const end = view.words + view.num_words;
  const V32 table = hn::PromoteTo(d, hn::LoadU(D8(), transition));
  V32 context[4], state[4];
  const size_t vectors = view.lanes / 8;
  for (size_t v = 0; v < 4; ++v) {
    context[v] = hn::PromoteTo(d, hn::LoadU(D8(), contexts + 8 * v));
    state[v] = hn::LoadU(d, view.states + 8 * (v % vectors));
  }
  for (; done + 32 <= count && static_cast<size_t>(end - word) >= 32 + 8; done += 32) {
    const auto part = [&](size_t v, V32& own) HWY_ATTR {
      const V32 symbol = decode_step(view, own, context[v], word);
      const V32 whole = hn::Or(hn::ShiftLeft<8>(context[v]), symbol);
      hn::StoreU(hn::TruncateTo(d16, whole), d16, joint + done + 8 * v);
      const V32 at = hn::Or(hn::Add(context[v], context[v]), hn::And(symbol, hn::Set(d, 1)));
      context[v] = hn::TableLookupLanes(table, hn::IndicesFromVec(d, at));
    };
    if (vectors == 4) {
      part(0, state[0]);
      part(1, state[1]);
      part(2, state[2]);
      part(3, state[3]);
    } else {
      for (size_t v = 0; v < 4; ++v) part(v, state[v % vectors]);
    }
  }
  for (size_t v = 0; v < 4; ++v) {
    hn::StoreU(hn::TruncateTo(D8(), context[v]), D8(), contexts + 8 * v);
  }
  for (size_t v = 0; v < vectors; ++v) hn::StoreU(state[v], d, view.states + 8 * v);
  view.next_word = static_cast<size_t>(word - view.words);
  return done;
}

#else

size_t decode(RansView&, const uint8_t*, uint8_t*, size_t) { return 0; }
size_t decode_trellis(RansView&, const uint8_t*, uint8_t*, uint16_t*, size_t) { return 0; }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace espalier::codec::detail
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace espalier::codec::detail {

HWY_EXPORT(decode);
HWY_EXPORT(decode_trellis);

size_t rans_decode_vector(RansView& view, const uint8_t* contexts, uint8_t* symbols, size_t count) {
  return HWY_DYNAMIC_DISPATCH(decode)(view, contexts, symbols, count);
}
size_t rans_decode_trellis_vector(RansView& view, const uint8_t* transition, uint8_t* contexts,
                                  uint16_t* joint, size_t count) {
  return HWY_DYNAMIC_DISPATCH(decode_trellis)(view, transition, contexts, joint, count);
}

}  // namespace espalier::codec::detail
#endif  // HWY_ONCE
