#include "espalier/codec/plain.h"

#include <algorithm>
#include <array>
#include <bit>

#include "espalier/base/digest.h"
#include "espalier/codec/fwht.h"
#include "espalier/params/parameter_set.h"

namespace espalier::codec {

namespace {

constexpr size_t kPiece = size_t{1} << 12;  // values
constexpr uint32_t kInfinityBits = 0x7f800000u;

std::span<const uint8_t> bytes_of(std::span<const float> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
}

}  // namespace

bool append_plain(std::span<const uint8_t> header, const PlainValues& values, Bytes& out) {
  const auto& [after, before] = values;
  const size_t start = out.size();
  out.reserve(start + header.size() + after.size_bytes() + sizeof(uint32_t));
  ByteWriter writer(out);
  writer.bytes(header);
  Digest digest;
  digest.update(header);
  alignas(64) std::array<float, kPiece> difference;
  for (size_t at = 0; at < after.size(); at += kPiece) {
    const size_t count = std::min(kPiece, after.size() - at);
    std::span<const float> piece = after.subspan(at, count);
    if (!before.empty()) {
      subtract(piece, before.subspan(at, count), std::span(difference).first(count));
      piece = std::span(difference).first(count);
    }
    if (max_magnitude_bits(piece) >= kInfinityBits) {
      out.resize(start);
      return false;
    }
    writer.bytes(bytes_of(piece));
    digest.update(bytes_of(piece));
  }
  writer.put(digest.checksum32());
  return true;
}

std::optional<float> copy_plain(std::span<const uint8_t> header, std::span<const uint8_t> message,
                                std::span<float> out) {
  if (message.size() != header.size() + out.size_bytes() + sizeof(uint32_t)) return std::nullopt;
  if (!std::ranges::equal(message.first(header.size()), header)) return std::nullopt;
  ByteReader reader(message, "codec/plain");
  Digest digest;
  digest.update(reader.take(header.size()));
  uint32_t largest = 0;
  for (size_t at = 0; at < out.size(); at += kPiece) {
    const auto target = out.subspan(at, std::min(kPiece, out.size() - at));
    const auto piece = reader.take(target.size_bytes());
    digest.update(piece);
    std::memcpy(target.data(), piece.data(), piece.size());
    largest = std::max(largest, max_magnitude_bits(target));
  }
  if (largest >= kInfinityBits || reader.get<uint32_t>() != digest.checksum32())
    return std::nullopt;
  return std::bit_cast<float>(largest);
}

}  // namespace espalier::codec
