#include "espalier/codec/dithered.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/codec/dithered_kernel.h"
#include "espalier/codec/entropy_scale.h"
#include "espalier/codec/gauss_tables.h"

namespace espalier::codec {
namespace {

using detail::DitheredLayout;
using detail::kDitherSlack;

constexpr size_t kMaxBlock = 4096;
constexpr int kMaxRawBits = 2;
constexpr size_t kMaxEscapeBytes = 5;
constexpr std::string_view kWhere = "codec/dithered";

size_t num_blocks(size_t n, size_t block) {
  ESPALIER_CHECK(block > 0 && block % detail::kDitherLine == 0 && block <= kMaxBlock, block);
  return (n + block - 1) / block;
}

int precision_for(double bits) { return bits <= 2.5 ? 12 : bits <= 4.5 ? 13 : 14; }

// Bins of |u|: the rate lost by not knowing u exactly falls with the square of their number and of
// the step.
int num_bins(double bits) { return bits < 1.5 ? 8 : 4; }

DitheredLayout make_layout(double bits, double step) {
  DitheredLayout layout{};
  layout.raw_bits = std::clamp(static_cast<int>(std::ceil(bits - 6)), 0, kMaxRawBits);
  const double width = step * (1 << layout.raw_bits);
  // A symbol rarer than half a unit of frequency, even at the dither that favours it (½), is
  // cheaper as an escape.
  const double rare = 0.5 / (1 << precision_for(bits));
  layout.bin_bits = std::countr_zero(static_cast<unsigned>(num_bins(bits)));
  layout.reach = 1;
  while (layout.reach < 126 &&
         normal_cell(layout.reach * width, (layout.reach + 1) * width) > rare) {
    ++layout.reach;
  }
  return layout;
}

EntropyModel make_model(double bits, double step, const DitheredLayout& layout) {
  constexpr int kPoints = 16;  // of the dither within a bin
  const int half = (1 << layout.raw_bits) >> 1;
  const int bins = num_bins(bits);
  std::vector<std::vector<double>> weights(static_cast<size_t>(bins));
  for (int bin = 0; bin < bins; ++bin) {
    std::vector<double>& w = weights[static_cast<size_t>(bin)];
    w.assign(static_cast<size_t>(2 * layout.reach + 2), 0);
    for (int point = 0; point < kPoints; ++point) {
      const double u = (bin + (point + 0.5) / kPoints) / (2 * bins);
      const auto edge = [&](int high) {
        return (high * (1 << layout.raw_bits) - half - 0.5 - u) * step;
      };
      for (int high = -layout.reach; high <= layout.reach; ++high) {
        w[static_cast<size_t>(high + layout.reach)] += normal_cell(edge(high), edge(high + 1));
      }
      w.back() +=
          normal_upper_tail(edge(layout.reach + 1)) + normal_upper_tail(-edge(-layout.reach));
    }
  }
  return EntropyModel(weights, precision_for(bits));
}

size_t raw_bytes(int raw_bits, size_t n) { return (n * static_cast<size_t>(raw_bits) + 7) / 8; }

// Element i of a block takes bits i·raw_bits … of the block's bytes, low bits first; 8 elements
// fill whole bytes.
void pack_raw(int raw_bits, std::span<const uint8_t> raw, uint8_t* bytes) {
  const auto width = static_cast<size_t>(raw_bits);
  for (size_t i = 0; i < raw.size(); ++i) {
    bytes[i * width / 8] = static_cast<uint8_t>(bytes[i * width / 8] | raw[i] << (i * width % 8));
  }
}

void unpack_raw(int raw_bits, const uint8_t* bytes, std::span<uint8_t> raw) {
  const auto width = static_cast<size_t>(raw_bits);
  for (size_t i = 0; i < raw.size(); ++i) {
    raw[i] =
        static_cast<uint8_t>((bytes[i * width / 8] >> (i * width % 8)) & ((1 << raw_bits) - 1));
  }
}

struct Scratch {
  alignas(64) std::array<float, kMaxBlock + kDitherSlack> x;
  alignas(64) std::array<uint32_t, kMaxBlock + kDitherSlack> words;
  alignas(64) std::array<int32_t, kMaxBlock + kDitherSlack> m;
  alignas(64) std::array<uint16_t, kMaxBlock + kDitherSlack> joint;
  alignas(64) std::array<uint8_t, kMaxBlock + kDitherSlack> raw;
  alignas(64) std::array<uint8_t, kMaxBlock + kDitherSlack> contexts;
  alignas(64) std::array<uint8_t, kMaxBlock + kDitherSlack> symbols;
};

}  // namespace

DitheredCode::DitheredCode(double bits)
    : step_(static_cast<float>(
          dithered_step(bits))),  // rounded: the last bits of the solver do not matter
      layout_(make_layout(bits, step_)),
      model_(make_model(bits, step_, layout_)) {}

size_t DitheredCode::max_encoded_bytes(size_t n, size_t block) {
  return 2 * num_blocks(n, block) + raw_bytes(kMaxRawBits, n) + max_rans_bytes(n) +
         kMaxEscapeBytes * n;
}

void DitheredCode::encode(std::span<const float> x, size_t block, Key key, Bytes& out) const {
  const size_t blocks = num_blocks(x.size(), block);
  const int raw_bits = layout_.raw_bits, reach = layout_.reach;
  const size_t start = out.size();
  out.resize(start + 2 * blocks);
  size_t coded = 0;
  for (size_t b = 0; b < blocks; ++b) {
    const auto part = x.subspan(b * block, std::min(block, x.size() - b * block));
    const double square = sum_of_squares(part);
    if (!std::isfinite(square))
      fail(kWhere, "expected finite values, got NaN or infinity in block ", b);
    const uint16_t code = encode_scale(std::sqrt(square / static_cast<double>(part.size())));
    std::memcpy(out.data() + start + 2 * b, &code, 2);
    if (code != 0) coded += part.size();
  }
  if (coded == 0) return;

  const size_t raw_start = out.size();
  out.resize(raw_start + raw_bytes(raw_bits, coded));
  const auto scratch = std::make_unique_for_overwrite<Scratch>();
  std::vector<int32_t> escapes;  // from the last to the first
  RansEncoder encoder(model_, coded);
  size_t left = coded;
  for (size_t b = blocks; b-- > 0;) {
    uint16_t code;
    std::memcpy(&code, out.data() + start + 2 * b, 2);
    if (code == 0) continue;
    const auto part = x.subspan(b * block, std::min(block, x.size() - b * block));
    const size_t n = part.size();
    const float* values = part.data();
    if (n % 16 != 0) {  // the kernel reads whole vectors
      std::copy_n(values, n, scratch->x.data());
      std::fill_n(scratch->x.data() + n, kDitherSlack, 0.0f);
      values = scratch->x.data();
    }
    const auto inverse = static_cast<float>(1.0 / (double{decode_scale(code)} * step_));
    detail::dither_words(key.value(), b * block / detail::kDitherLine, scratch->words.data(), n);
    const bool any_escape =
        detail::dithered_quantize(layout_, values, scratch->words.data(), inverse, n,
                                  scratch->joint.data(), scratch->raw.data(), scratch->m.data());
    if (any_escape) {
      const int half = (1 << raw_bits) >> 1;
      for (size_t i = n; i-- > 0;) {
        if ((scratch->joint[i] & 0xFF) == 2 * reach + 1)
          escapes.push_back((scratch->m[i] + half) >> raw_bits);
      }
    }
    left -= n;
    if (raw_bits > 0) {
      pack_raw(raw_bits, std::span(scratch->raw).first(n),
               out.data() + raw_start + raw_bytes(raw_bits, left));
    }
    encoder.push_front(std::span(scratch->joint).first(n));
  }
  std::move(encoder).finish(out);
  for (size_t i = escapes.size(); i-- > 0;) put_escape(escapes[i], out);
}

void DitheredCode::decode(std::span<const uint8_t> in, size_t block, Key key,
                          std::span<float> out) const {
  const size_t blocks = num_blocks(out.size(), block);
  const auto [raw_bits, reach, bin_bits] = layout_;
  ByteReader reader(in, kWhere);
  const auto codes = reader.take(2 * uint64_t{blocks});
  const auto scale_of = [&](size_t b) {
    uint16_t code;
    std::memcpy(&code, codes.data() + 2 * b, 2);
    return decode_scale(code);
  };
  size_t coded = 0;
  for (size_t b = 0; b < blocks; ++b) {
    if (scale_of(b) != 0) coded += std::min(block, out.size() - b * block);
  }
  if (coded == 0) {
    reader.finish();
    std::fill(out.begin(), out.end(), 0.0f);
    return;
  }
  const auto raw = reader.take(raw_bytes(raw_bits, coded));
  RansDecoder decoder(model_, coded, reader);
  const auto scratch = std::make_unique_for_overwrite<Scratch>();
  size_t done = 0;
  for (size_t b = 0; b < blocks; ++b) {
    const auto part = out.subspan(b * block, std::min(block, out.size() - b * block));
    const size_t n = part.size();
    const float block_scale = scale_of(b);
    if (block_scale == 0) {
      std::fill(part.begin(), part.end(), 0.0f);
      continue;
    }
    const auto scale = static_cast<float>(double{block_scale} * step_);
    detail::dither_words(key.value(), b * block / detail::kDitherLine, scratch->words.data(), n);
    detail::dithered_contexts(bin_bits, scratch->words.data(), n, scratch->contexts.data());
    decoder.next(std::span(scratch->contexts).first(n), std::span(scratch->symbols).first(n));
    std::fill_n(scratch->symbols.data() + n, kDitherSlack, uint8_t{0});
    if (raw_bits > 0) {
      unpack_raw(raw_bits, raw.data() + raw_bytes(raw_bits, done),
                 std::span(scratch->raw).first(n));
    }
    const bool any_escape =
        detail::dithered_rebuild(layout_, scratch->symbols.data(), scratch->raw.data(),
                                 scratch->words.data(), scale, n, part.data());
    if (any_escape) {
      const int half = (1 << raw_bits) >> 1;
      for (size_t i = 0; i < n; ++i) {
        if (scratch->symbols[i] != 2 * reach + 1) continue;
        const int64_t low = raw_bits > 0 ? scratch->raw[i] : 0;
        const int64_t m = (int64_t{get_escape(reader)} << raw_bits) + low - half;
        if (m < INT32_MIN || m > INT32_MAX)
          fail(kWhere, "an escaped integer beyond 32 bits; the message is damaged");
        part[i] = detail::dithered_rebuild_one(static_cast<int32_t>(m), scratch->words[i], scale);
      }
    }
    done += n;
  }
  decoder.finish();
  reader.finish();
}

}  // namespace espalier::codec
