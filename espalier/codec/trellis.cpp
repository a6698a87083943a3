#include "espalier/codec/trellis.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/codec/entropy_scale.h"

namespace espalier::codec {
namespace {

using namespace detail;

constexpr size_t kMaxBlock = 4096;
constexpr size_t kFrame = kTrellisMaxSteps * kTrellisLanes;
constexpr size_t kSlack = 32;
constexpr size_t kMaxEscapeBytes = 5;
constexpr std::string_view kWhere = "codec/trellis";

size_t num_blocks(size_t n, size_t block) {
  ESPALIER_CHECK(block > 0 && block % 64 == 0 && block <= kMaxBlock, block);
  return (n + block - 1) / block;
}

size_t round_up(size_t n) { return (n + kTrellisLanes - 1) / kTrellisLanes * kTrellisLanes; }

struct CodedBlock {
  size_t index, begin, size;  // begin: in the whole input
  double deviation;
};

// Whole blocks that share a restart of the trellises.
template <class Visit>
void for_each_frame(const std::vector<CodedBlock>& coded, size_t block, Visit visit) {
  const size_t per_frame = std::max<size_t>(1, kFrame / block);
  for (size_t first = 0; first < coded.size(); first += per_frame) {
    visit(std::span(coded).subspan(first, std::min(per_frame, coded.size() - first)));
  }
}

struct EncodeScratch {
  alignas(64) std::array<float, kMaxBlock + kSlack> x;
  alignas(64) std::array<int32_t, kFrame + kSlack> y, turns;
  alignas(64) std::array<int16_t, kFrame + kSlack> levels;
  alignas(64) std::array<uint8_t, kFrame + kSlack> states;
  alignas(64) std::array<uint16_t, kFrame + kSlack> joint;
  alignas(64) std::array<float, kFrame + kSlack> values;
  TrellisScratch search;
};

// k of a level: halves, rounded away from zero (Q1's levels are odd).
int index_of(int level) { return level >= 0 ? (level + 1) / 2 : (level - 1) / 2; }

}  // namespace

TrellisCode::TrellisCode(double bits)
    : design_(design_trellis(bits, trellis_lambda(bits))), model_(design_.model()) {}

size_t TrellisCode::max_encoded_bytes(size_t n, size_t block) {
  return 2 * num_blocks(n, block) + max_rans_bytes(n) + kMaxEscapeBytes * n;
}

void TrellisCode::encode(std::span<const float> x, size_t block, Bytes& out) const {
  const size_t blocks = num_blocks(x.size(), block);
  const size_t start = out.size();
  out.resize(start + 2 * blocks);
  std::vector<CodedBlock> coded;
  size_t count = 0;
  for (size_t b = 0; b < blocks; ++b) {
    const auto part = x.subspan(b * block, std::min(block, x.size() - b * block));
    const double square = sum_of_squares(part);
    if (!std::isfinite(square))
      fail(kWhere, "expected finite values, got NaN or infinity in block ", b);
    const double deviation = std::sqrt(square / static_cast<double>(part.size()));
    // Smaller blocks have no scale (entropy_scale.h), with room for a scale a little below the
    // expected one.
    if (deviation * design_.step < 0x1p-118) continue;
    coded.push_back({b, b * block, part.size(), deviation});
    count += part.size();
  }
  if (count == 0) return;

  const int reach = design_.reach;
  const auto scratch = std::make_unique_for_overwrite<EncodeScratch>();
  std::vector<uint16_t> joint;
  joint.reserve(count);
  Bytes escapes;
  for_each_frame(coded, block, [&](std::span<const CodedBlock> frame) {
    size_t n = 0;
    bool any_turn = false;
    for (const CodedBlock& b : frame) {
      const float* values = x.data() + b.begin;
      if (b.size % kTrellisLanes != 0) {  // the kernels work on whole vectors
        std::copy_n(values, b.size, scratch->x.data());
        std::fill_n(scratch->x.data() + b.size, kSlack, 0.0f);
        values = scratch->x.data();
      }
      const auto factor = static_cast<float>(kTrellisUnit / (b.deviation * design_.step));
      any_turn |= trellis_prepare(values, factor, design_.limit, round_up(b.size),
                                  scratch->y.data() + n, scratch->turns.data() + n);
      n += b.size;
    }
    const size_t whole = round_up(n);
    trellis_search(design_.table(), scratch->y.data(), whole / kTrellisLanes, scratch->search,
                   scratch->levels.data(), scratch->states.data());
    if (any_turn) {
      for (size_t i = 0; i < n; ++i) {
        scratch->levels[i] = static_cast<int16_t>(scratch->levels[i] + 4 * scratch->turns[i]);
      }
    }
    const bool any_escape = trellis_symbols(scratch->levels.data(), scratch->states.data(), reach,
                                            whole, scratch->joint.data(), scratch->values.data());
    if (any_escape) {
      for (size_t i = 0; i < n; ++i) {
        const int k = index_of(scratch->levels[i]);
        if (k > reach) put_escape(k - reach - 1, escapes);
        if (k < -reach) put_escape(k + reach, escapes);
      }
    }
    joint.insert(joint.end(), scratch->joint.begin(),
                 scratch->joint.begin() + static_cast<std::ptrdiff_t>(n));
    size_t at = 0;
    for (const CodedBlock& b : frame) {
      const auto levels = std::span<const float>(scratch->values).subspan(at, b.size);
      const double product = dot(x.subspan(b.begin, b.size), levels),
                   square = sum_of_squares(levels);
      uint16_t code = product > 0 ? encode_scale(product / square) : uint16_t{0};
      if (code == 0)
        code = encode_scale(b.deviation * design_.step);  // levels all zero: any scale serves
      std::memcpy(out.data() + start + 2 * b.index, &code, 2);
      at += b.size;
    }
  });
  RansEncoder encoder(model_, count);
  encoder.push_front(joint);
  std::move(encoder).finish(out);
  out.insert(out.end(), escapes.begin(), escapes.end());
}

void TrellisCode::decode(std::span<const uint8_t> in, size_t block, std::span<float> out) const {
  const size_t blocks = num_blocks(out.size(), block);
  ByteReader reader(in, kWhere);
  const auto codes = reader.take(2 * uint64_t{blocks});
  std::vector<CodedBlock> coded;  // with the scale for a deviation
  size_t count = 0;
  for (size_t b = 0; b < blocks; ++b) {
    const auto part = out.subspan(b * block, std::min(block, out.size() - b * block));
    uint16_t code;
    std::memcpy(&code, codes.data() + 2 * b, 2);
    const float scale = decode_scale(code);
    if (scale == 0) {
      std::fill(part.begin(), part.end(), 0.0f);
      continue;
    }
    coded.push_back({b, b * block, part.size(), scale});
    count += part.size();
  }
  if (count == 0) return reader.finish();

  const int reach = design_.reach;
  RansDecoder decoder(model_, count, reader);
  std::vector<uint16_t> joint(kFrame + kSlack);
  for_each_frame(coded, block, [&](std::span<const CodedBlock> frame) {
    size_t n = 0;
    for (const CodedBlock& b : frame) n += b.size;
    std::array<uint8_t, kTrellisLanes> states{};
    decoder.next_trellis(kTrellisTransition, states, std::span(joint).first(n));
    size_t at = 0;
    for (const CodedBlock& b : frame) {
      const auto scale = static_cast<float>(b.deviation);
      const auto part = out.subspan(b.begin, b.size);
      const bool any_escape = trellis_rebuild(joint.data() + at, reach, scale, b.size, part.data());
      for (size_t i = 0; any_escape && i < b.size; ++i) {
        const int symbol = joint[at + i] & 0xFF;
        if (symbol <= 2 * reach) continue;
        const int64_t escape = get_escape(reader);
        const int64_t k = escape >= 0 ? escape + reach + 1 : escape - reach;
        if ((k & 1) != (symbol & 1))
          fail(kWhere, "an escaped integer of the wrong parity; the message is damaged");
        const int64_t level = 2 * k - (joint[at + i] >> 9 != 0 ? (k > 0) - (k < 0) : 0);
        part[i] = std::clamp(static_cast<float>(level) * scale, -FLT_MAX, FLT_MAX);
      }
      at += b.size;
    }
  });
  decoder.finish();
  reader.finish();
}

}  // namespace espalier::codec
