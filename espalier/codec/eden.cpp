#include "espalier/codec/eden.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numbers>

#include "espalier/base/error.h"
#include "espalier/codec/eden_kernel.h"
#include "espalier/codec/entropy_scale.h"
#include "espalier/codec/gauss_tables.h"

namespace espalier::codec {
namespace {

using detail::kEdenGrid;
using detail::kEdenSlack;

constexpr size_t kMaxBlock = 4096;
constexpr std::string_view kWhere = "codec/eden";

size_t levels_for(double bits) {
  ESPALIER_CHECK(bits >= 1 && bits <= 8, bits);
  return static_cast<size_t>(exp_fixed(bits * std::numbers::ln2) + 0.5);
}

size_t num_blocks(size_t n, size_t block) {
  ESPALIER_CHECK(block > 0 && block <= kMaxBlock, block);
  return (n + block - 1) / block;
}

struct Scratch {
  alignas(64) std::array<float, kMaxBlock + kEdenSlack> x, q;
  alignas(64) std::array<uint8_t, kMaxBlock + kEdenSlack> indices;
};

}  // namespace

EdenCode::EdenCode(double bits, EdenScale scale)
    : scale_(scale), levels_(levels_for(bits)), packing_(levels_) {
  const LloydMax quantizer = lloyd_max(levels_);
  mse_ = quantizer.mse;
  centroids_.assign(quantizer.centroids.begin(), quantizer.centroids.end());
  thresholds_.assign(quantizer.thresholds.begin(), quantizer.thresholds.end());
  grid_.resize(kEdenGrid);
  for (size_t cell = 0; cell < kEdenGrid; ++cell) {
    // A little below the cell's lower edge, for the rounding of 64·y + 512. Cells are narrower than
    // the levels are apart.
    const double surely = (static_cast<double>(cell) - 512) / 64 - 1e-3;
    grid_[cell] = static_cast<int32_t>(
        cell == 0 ? 0 : std::count_if(thresholds_.begin(), thresholds_.end(), [&](float t) {
          return t <= surely;
        }));
  }
  thresholds_.insert(thresholds_.end(), 2, std::numeric_limits<float>::infinity());
}

double EdenCode::nominal_bits() const { return std::log2(static_cast<double>(levels_)); }

double EdenCode::expected_error() const {
  return scale_ == EdenScale::kBiased ? mse_ : mse_ / (1 - mse_);
}

size_t EdenCode::encoded_bytes(size_t n, size_t block) const {
  const size_t whole = n / block, rest = n % block;
  return 2 * num_blocks(n, block) + whole * packing_.bytes(block) + packing_.bytes(rest);
}

void EdenCode::encode(std::span<const float> x, size_t block, Bytes& out) const {
  const size_t blocks = num_blocks(x.size(), block);
  const size_t start = out.size();
  out.resize(start + encoded_bytes(x.size(), block));
  const auto scratch = std::make_unique_for_overwrite<Scratch>();
  const detail::EdenLevels levels{levels_, thresholds_.data(), centroids_.data(), grid_.data()};
  size_t at = start + 2 * blocks;
  for (size_t b = 0; b < blocks; ++b) {
    const auto part = x.subspan(b * block, std::min(block, x.size() - b * block));
    const size_t n = part.size(), size = packing_.bytes(n);
    const double square = sum_of_squares(part);
    if (!std::isfinite(square))
      fail(kWhere, "expected finite values, got NaN or infinity in block ", b);
    const double deviation = std::sqrt(square / static_cast<double>(n));
    uint16_t code = encode_scale(deviation);
    if (code != 0) {  // else the bytes stay zero
      const float* values = part.data();
      if (n % kEdenSlack != 0) {
        std::copy_n(values, n, scratch->x.data());
        std::fill_n(scratch->x.data() + n, kEdenSlack, 0.0f);
        values = scratch->x.data();
      }
      detail::eden_quantize(levels, values, static_cast<float>(1 / deviation), n,
                            scratch->indices.data(), scratch->q.data());
      const auto q = std::span<const float>(scratch->q).first(n);
      const double product = dot(part, q);
      code = encode_scale(scale_ == EdenScale::kUnbiased ? square / product
                                                         : product / sum_of_squares(q));
      packing_.pack(std::span(scratch->indices).first(n), std::span(out).subspan(at, size));
    }
    std::memcpy(out.data() + start + 2 * b, &code, 2);
    at += size;
  }
}

void EdenCode::decode(std::span<const uint8_t> in, size_t block, std::span<float> out) const {
  const size_t blocks = num_blocks(out.size(), block);
  const size_t expected = encoded_bytes(out.size(), block);
  if (in.size() != expected) fail(kWhere, "expected ", expected, " bytes, got ", in.size());
  const auto scratch = std::make_unique_for_overwrite<Scratch>();
  std::array<float, 256> table{};
  size_t at = 2 * blocks;
  for (size_t b = 0; b < blocks; ++b) {
    const auto part = out.subspan(b * block, std::min(block, out.size() - b * block));
    const size_t n = part.size(), size = packing_.bytes(n);
    uint16_t code;
    std::memcpy(&code, in.data() + 2 * b, 2);
    const float scale = decode_scale(code);
    for (size_t i = 0; i < levels_; ++i)
      table[i] = std::clamp(centroids_[i] * scale, -FLT_MAX, FLT_MAX);
    if (!packing_.unpack(in.subspan(at, size), std::span(scratch->indices).first(n))) {
      fail(kWhere, "impossible indices in block ", b, "; the message is damaged");
    }
    std::fill_n(scratch->indices.data() + n, kEdenSlack, uint8_t{0});
    detail::eden_rebuild(table.data(), scratch->indices.data(), n, part.data());
    at += size;
  }
}

}  // namespace espalier::codec
