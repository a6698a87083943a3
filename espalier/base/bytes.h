#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "espalier/base/error.h"

// Little-endian writing and bounds-checked reading of byte buffers: the only way bytes from a file
// or a peer are parsed.
namespace espalier {

static_assert(std::endian::native == std::endian::little, "Espalier's formats are read in place");

using Bytes = std::vector<uint8_t>;

// Without setting the new bytes to zero before.
void append_bytes(const void* data, size_t size, Bytes& out);

class ByteWriter {
 public:
  explicit ByteWriter(Bytes& out) : out_(out) {}

  template <class T>
  requires std::is_arithmetic_v<T>
  void put(T value) { append(&value, sizeof(T)); }
  void bytes(std::span<const uint8_t> data) { append(data.data(), data.size()); }
  template <class T>
  requires std::is_arithmetic_v<T>
  void array(std::span<const T> values) { append(values.data(), values.size_bytes()); }
  // u32 length, then the characters.
  void string(std::string_view text) {
    put(static_cast<uint32_t>(text.size()));
    append(text.data(), text.size());
  }
  size_t size() const { return out_.size(); }

 private:
  void append(const void* data, size_t size) {
    if (size == 0) return;
    if (size > kSmall) return append_bytes(data, size, out_);
    const size_t at = out_.size();
    out_.resize(at + size);
    std::memcpy(out_.data() + at, data, size);
  }
  static constexpr size_t kSmall = 64;
  Bytes& out_;
};

// Throws Error("[where] …") on every read past the end; never reads outside `data`.
class ByteReader {
 public:
  ByteReader(std::span<const uint8_t> data, std::string_view where) : data_(data), where_(where) {}

  template <class T>
  requires std::is_arithmetic_v<T> T get() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  // The next `size` bytes, without copying; valid as long as the underlying data.
  std::span<const uint8_t> take(uint64_t size) {
    if (size > remaining()) {
      fail(where_, "truncated: expected ", size, " more bytes, got ", remaining());
    }
    const auto part = data_.subspan(position_, size);
    position_ += size;
    return part;
  }
  template <class T>
  requires std::is_arithmetic_v<T>
  void array(std::span<T> values) {
    const auto part = take(values.size_bytes());
    if (!part.empty()) std::memcpy(values.data(), part.data(), part.size());
  }
  // A string written by ByteWriter::string; longer than `max_size` is an error.
  std::string string(size_t max_size = 1 << 16) {
    const auto size = get<uint32_t>();
    if (size > max_size)
      fail(where_, "a string of ", size, " bytes exceeds the limit of ", max_size);
    const auto part = take(size);
    return std::string(part.begin(), part.end());
  }
  size_t remaining() const { return data_.size() - position_; }
  size_t position() const { return position_; }
  const std::string& where() const { return where_; }
  // Trailing bytes are an error too.
  void finish() const {
    if (remaining() != 0) fail(where_, remaining(), " unexpected bytes at the end");
  }

 private:
  std::span<const uint8_t> data_;
  std::string where_;
  size_t position_ = 0;
};

// The low 32 bits of XXH3-64 of `data`: the checksum of messages and checkpoints, 20 times as fast
// as CRC-32. It finds accidents, not malice.
uint32_t checksum32(std::span<const uint8_t> data);

// CRC-32 (zlib's) of `data`, continuing from `seed`.
uint32_t crc32(std::span<const uint8_t> data, uint32_t seed = 0);

}  // namespace espalier
