#include "espalier/rpc/chunks.h"

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "espalier/base/digest.h"

namespace espalier::rpc {

namespace {

using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

// Tags: number << 3 | wire type.
constexpr uint32_t kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5;
constexpr uint32_t tag(uint32_t number, uint32_t wire) { return number << 3 | wire; }
constexpr uint32_t kOffset = tag(1, kVarint), kCheck = tag(2, kFixed32), kData = tag(3, kLength);
constexpr uint32_t kOpen = tag(1, kLength), kChunk = tag(2, kLength);

// A varint of at most five bytes and `most`, as tags and lengths are: CodedInputStream's own takes
// longer ones and drops what is too much.
bool read_short(CodedInputStream& in, uint64_t most, uint64_t& value) {
  constexpr int kLongest = 5;
  const int before = in.CurrentPosition();
  return in.ReadVarint64(&value) && in.CurrentPosition() - before <= kLongest && value <= most;
}

bool read_length(CodedInputStream& in, int& length) {
  uint64_t value = 0;
  if (!read_short(in, INT32_MAX, value)) return false;
  length = static_cast<int>(value);
  return true;
}

// The next field's tag; false at the end, and with `good` false for what is none.
bool next_field(CodedInputStream& in, uint32_t& field, bool& good) {
  const void* rest = nullptr;
  int size = 0;
  good = true;
  if (!in.GetDirectBufferPointer(&rest, &size)) return false;
  uint64_t tag = 0;
  good = read_short(in, UINT32_MAX, tag) && tag >> 3 != 0;  // there is no field 0
  field = static_cast<uint32_t>(tag);
  return good;
}

bool skip_field(CodedInputStream& in, uint32_t field) {
  uint64_t number = 0;
  switch (field & 7) {
    case kVarint:
      return in.ReadVarint64(&number);
    case kFixed64:
      return in.Skip(8);
    case kFixed32:
      return in.Skip(4);
    case kLength: {
      int length = 0;
      return read_length(in, length) && in.Skip(length);
    }
    default:
      return false;  // groups: no message of this protocol has had one
  }
}

// Where the next `size` bytes lie.
bool point_at(CodedInputStream& in, int size, Pieces& pieces) {
  while (size > 0) {
    const void* data = nullptr;
    int here = 0;
    if (!in.GetDirectBufferPointer(&data, &here) || here <= 0) return false;
    here = std::min(here, size);
    pieces.emplace_back(static_cast<const uint8_t*>(data), static_cast<size_t>(here));
    if (!in.Skip(here)) return false;
    size -= here;
  }
  return true;
}

bool read_chunk_fields(CodedInputStream& in, ChunkView& chunk) {
  uint32_t field = 0;
  bool good = true;
  while (next_field(in, field, good)) {
    if (field == kOffset) {
      if (!in.ReadVarint64(&chunk.offset)) return false;
    } else if (field == kCheck) {
      if (!in.ReadLittleEndian32(&chunk.check)) return false;
    } else if (field == kData) {
      int size = 0;
      chunk.pieces.clear();  // the last one counts
      if (!read_length(in, size) || !point_at(in, size, chunk.pieces)) return false;
      chunk.size = static_cast<uint64_t>(size);
    } else if (!skip_field(in, field)) {
      return false;
    }
  }
  return good;
}

// Everything of a Chunk that comes before its bytes.
size_t put_chunk_head(uint64_t offset, uint32_t check, size_t size, uint8_t* out) {
  uint8_t* at = out;
  if (offset != 0) {  // as protobuf has it: what is 0 is left out
    at = CodedOutputStream::WriteTagToArray(kOffset, at);
    at = CodedOutputStream::WriteVarint64ToArray(offset, at);
  }
  if (check != 0) {
    at = CodedOutputStream::WriteTagToArray(kCheck, at);
    at = CodedOutputStream::WriteLittleEndian32ToArray(check, at);
  }
  at = CodedOutputStream::WriteTagToArray(kData, at);
  at = CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(size), at);
  return static_cast<size_t>(at - out);
}
constexpr size_t kMaxHead = 32;  // of a chunk, and of a part around it

uint32_t check_of(const Pieces& pieces) {
  Digest digest;
  for (const auto piece : pieces) digest.update(piece);
  return digest.checksum32();
}

}  // namespace

bool ChunkView::intact() const { return check_of(pieces) == check; }

bool read_chunk(grpc::ByteBuffer& buffer, ChunkView& chunk) {
  chunk = {};
  grpc::ProtoBufferReader reader(&buffer);
  if (!reader.status().ok()) return false;
  CodedInputStream in(&reader);
  return read_chunk_fields(in, chunk);
}

bool read_push_part(grpc::ByteBuffer& buffer, bool& is_open, v1::PushOpen& open, ChunkView& chunk) {
  chunk = {};
  is_open = false;
  bool found = false;
  grpc::ProtoBufferReader reader(&buffer);
  if (!reader.status().ok()) return false;
  CodedInputStream in(&reader);
  uint32_t field = 0;
  bool good = true;
  while (next_field(in, field, good)) {
    if (field != kOpen && field != kChunk) {
      if (!skip_field(in, field)) return false;
      continue;
    }
    int size = 0;
    if (!read_length(in, size)) return false;
    const auto limit = in.PushLimit(size);
    // Only one of the two can be there: the other one is forgotten; the same one is added to.
    if (!found || is_open != (field == kOpen)) {
      open.Clear();
      chunk = {};
    }
    found = true;
    is_open = field == kOpen;
    const bool read = is_open ? open.MergeFromCodedStream(&in) && in.ConsumedEntireMessage()
                              : read_chunk_fields(in, chunk);
    if (!read || in.BytesUntilLimit() != 0) return false;
    in.PopLimit(limit);
  }
  return good && found;
}

grpc::ByteBuffer write_chunk(uint64_t offset, const Pieces& pieces,
                             const std::shared_ptr<const void>& owner) {
  size_t size = 0;
  for (const auto piece : pieces) size += piece.size();
  std::array<uint8_t, kMaxHead> head;
  std::vector<grpc::Slice> slices;
  slices.reserve(pieces.size() + 1);
  slices.emplace_back(head.data(), put_chunk_head(offset, check_of(pieces), size, head.data()));
  for (const auto piece : pieces) {
    constexpr size_t kCopied = 64;  // cheaper than counting references
    if (piece.size() <= kCopied) {
      slices.emplace_back(piece.data(), piece.size());
      continue;
    }
    auto* keeps = new std::shared_ptr<const void>(owner);
    // gRPC reads it only.
    slices.emplace_back(
        const_cast<uint8_t*>(piece.data()), piece.size(),
        [](void* kept) { delete static_cast<std::shared_ptr<const void>*>(kept); }, keeps);
  }
  return {slices.data(), slices.size()};
}

grpc::ByteBuffer write_push_part(uint64_t offset, const grpc::Slice& data) {
  std::array<uint8_t, kMaxHead> head, outer;
  const uint32_t check = checksum32({data.begin(), data.size()});
  const size_t inner = put_chunk_head(offset, check, data.size(), head.data());
  uint8_t* at = CodedOutputStream::WriteTagToArray(kChunk, outer.data());
  at = CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(inner + data.size()), at);
  at = std::copy_n(head.data(), inner, at);
  const std::array<grpc::Slice, 2> slices = {
      grpc::Slice(outer.data(), static_cast<size_t>(at - outer.data())), data};
  return {slices.data(), slices.size()};
}

bool read_proto(const grpc::ByteBuffer& buffer, google::protobuf::MessageLite& proto) {
  grpc::ByteBuffer shared = buffer;  // the reader wants one that it may change
  grpc::ProtoBufferReader reader(&shared);
  return reader.status().ok() && proto.ParseFromZeroCopyStream(&reader);
}

grpc::ByteBuffer write_proto(const google::protobuf::MessageLite& proto) {
  const grpc::Slice slice(proto.SerializeAsString());
  return {&slice, 1};
}

}  // namespace espalier::rpc
