#include "espalier/base/byte_source.h"

#include <algorithm>

#include "espalier/base/digest.h"
#include "espalier/base/file.h"

namespace espalier {

void ByteSource::append(Piece piece) {
  if (piece.size == 0) return;
  piece.begin = size_;
  size_ += piece.size;
  pieces_.push_back(std::move(piece));
}

void ByteSource::append(std::shared_ptr<const Bytes> bytes) {
  const uint8_t* const first = bytes->data();
  const uint64_t size = bytes->size();
  append(Piece{0, size, std::move(bytes), first, nullptr, 0});
}

void ByteSource::append(const ByteSource& other) {
  const std::vector<Piece> pieces = other.pieces_;  // `other` may be this
  for (const Piece& piece : pieces) append(piece);
}

void ByteSource::append_view(std::span<const uint8_t> bytes) {
  append(Piece{0, bytes.size(), nullptr, bytes.data(), nullptr, 0});
}

void ByteSource::append_read(uint64_t size, Read read) {
  append(Piece{0, size, nullptr, nullptr, std::move(read), 0});
}

ByteSource ByteSource::part(uint64_t offset, uint64_t size) const {
  ESPALIER_CHECK(offset <= size_ && size <= size_ - offset, offset, " + ", size, " of ", size_);
  ByteSource out;
  for (const Piece& piece : pieces_) {
    const uint64_t begin = std::max(piece.begin, offset),
                   end = std::min(piece.begin + piece.size, offset + size);
    if (begin >= end) continue;
    Piece inner = piece;
    inner.size = end - begin;
    inner.offset += begin - piece.begin;
    if (inner.bytes != nullptr) inner.bytes += begin - piece.begin;
    out.append(std::move(inner));
  }
  return out;
}

void ByteSource::read(uint64_t offset, std::span<uint8_t> out) const {
  ESPALIER_CHECK(offset <= size_ && out.size() <= size_ - offset, offset, " + ", out.size(), " of ",
                 size_);
  // The piece in which `offset` lies: the last that begins at or before it.
  auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), offset,
                                [](uint64_t at, const Piece& p) { return at < p.begin; });
  if (!out.empty()) --piece;
  for (; !out.empty(); ++piece) {
    const uint64_t skip = offset - piece->begin;
    const auto count = static_cast<size_t>(std::min<uint64_t>(piece->size - skip, out.size()));
    if (piece->bytes != nullptr)
      std::copy_n(piece->bytes + skip, count, out.begin());
    else
      piece->read(piece->offset + skip, out.first(count));
    offset += count;
    out = out.subspan(count);
  }
}

void ByteSource::for_each_piece(const std::function<void(std::span<const uint8_t>)>& take) const {
  constexpr uint64_t kBuffer = uint64_t{1} << 20;
  Bytes buffer;
  for (const Piece& piece : pieces_) {
    if (piece.bytes != nullptr) {
      take({piece.bytes, static_cast<size_t>(piece.size)});
      continue;
    }
    for (uint64_t done = 0; done < piece.size; done += buffer.size()) {
      buffer.resize(static_cast<size_t>(std::min(piece.size - done, kBuffer)));
      piece.read(piece.offset + done, buffer);
      take(buffer);
    }
  }
}

Bytes ByteSource::bytes() const {
  Bytes all;
  all.reserve(static_cast<size_t>(size_));
  for_each_piece(
      [&](std::span<const uint8_t> piece) { append_bytes(piece.data(), piece.size(), all); });
  return all;
}

uint32_t ByteSource::checksum() const {
  Digest digest;
  for_each_piece([&](std::span<const uint8_t> piece) { digest.update(piece); });
  return digest.checksum32();
}

uint64_t SourceReader::skip(uint64_t size) {
  if (size > remaining())
    fail(where_, "truncated: expected ", size, " more bytes, got ", remaining());
  const uint64_t at = position_;
  position_ += size;
  return at;
}

void SourceReader::finish() const {
  if (remaining() != 0) fail(where_, remaining(), " unexpected bytes at the end");
}

ByteSource file_source(const std::filesystem::path& path) {
  const auto file = std::make_shared<const FileReader>(path);
  ByteSource source;
  source.append_read(file->size(),
                     [file](uint64_t offset, std::span<uint8_t> out) { file->read(offset, out); });
  return source;
}

}  // namespace espalier
