#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "espalier/base/bytes.h"

namespace espalier {

// A sequence of bytes of which parts may lie elsewhere, in a file say, and are read when they are
// asked for: for what is too long to be held a second time. Copies share what is held. Many threads
// may read at a time if what yields the bytes allows it.
class ByteSource {
 public:
  // Fills `out` with the bytes from `offset` on, all of which are there; throws when it cannot.
  using Read = std::function<void(uint64_t offset, std::span<uint8_t> out)>;

  // Each at the end of what is there so far.
  void append(std::shared_ptr<const Bytes> bytes);
  void append(Bytes bytes) { append(std::make_shared<const Bytes>(std::move(bytes))); }
  void append(const ByteSource& other);
  void append_view(std::span<const uint8_t> bytes);  // which outlive this and its copies
  void append_read(uint64_t size, Read read);

  uint64_t size() const { return size_; }
  // A range, which must lie within.
  ByteSource part(uint64_t offset, uint64_t size) const;
  void read(uint64_t offset, std::span<uint8_t> out) const;
  // Everything in order. What is in memory comes as it lies, the rest 1 MiB at a time at most;
  // valid during the call.
  void for_each_piece(const std::function<void(std::span<const uint8_t>)>& take) const;
  // All at once.
  Bytes bytes() const;
  // checksum32 of bytes(), piece by piece.
  uint32_t checksum() const;

 private:
  struct Piece {
    uint64_t begin = 0, size = 0;         // in the sequence
    std::shared_ptr<const Bytes> holder;  // of `bytes`, unless somebody else holds them
    const uint8_t* bytes = nullptr;       // null: read
    Read read;
    uint64_t offset = 0;  // of the piece's first byte, for `read`
  };
  void append(Piece piece);

  std::vector<Piece> pieces_;
  uint64_t size_ = 0;
};

// Bounds-checked reading of a source from its beginning on, as ByteReader reads bytes in memory.
class SourceReader {
 public:
  // `source` outlives this.
  SourceReader(const ByteSource& source, std::string_view where) : source_(source), where_(where) {}

  template <class T>
  requires std::is_arithmetic_v<T> T get() {
    T value;
    array(std::span(&value, 1));
    return value;
  }
  template <class T>
  requires std::is_arithmetic_v<T>
  void array(std::span<T> values) {
    const uint64_t at = skip(values.size_bytes());
    source_.read(at, {reinterpret_cast<uint8_t*>(values.data()), values.size_bytes()});
  }
  // The next `size` bytes, unread.
  ByteSource part(uint64_t size) { return source_.part(skip(size), size); }
  uint64_t remaining() const { return source_.size() - position_; }
  const std::string& where() const { return where_; }
  // Trailing bytes are an error too.
  void finish() const;

 private:
  // The position before. Throws Error when there are fewer.
  uint64_t skip(uint64_t size);

  const ByteSource& source_;
  std::string where_;
  uint64_t position_ = 0;
};

// A file, which is kept open as long as a copy of this is; of what is read, no more than that is in
// memory. Throws Error as FileReader does.
ByteSource file_source(const std::filesystem::path& path);

// As write_file_atomic of bytes (base/file.h), piece by piece; also when a piece cannot be read,
// the target is untouched.
void write_file_atomic(const std::filesystem::path& path, const ByteSource& data);

}  // namespace espalier
