#include "espalier/rpc/chunks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "espalier/base/bytes.h"

namespace espalier::rpc {
namespace {

std::string text_of(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string text;
  for (const grpc::Slice& slice : slices)
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return text;
}

std::string text_of(const Pieces& pieces) {
  std::string text;
  for (const auto piece : pieces) text.append(piece.begin(), piece.end());
  return text;
}

// The same bytes as slices of `step`.
grpc::ByteBuffer cut(const std::string& text, size_t step) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < text.size(); at += step)
    slices.emplace_back(text.data() + at, std::min(step, text.size() - at));
  return {slices.data(), slices.size()};
}

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

v1::Chunk chunk_of(uint64_t offset, const std::string& data) {
  v1::Chunk chunk;
  chunk.set_offset(offset);
  chunk.set_data(data);
  chunk.set_check(checksum32(bytes_of(data)));
  return chunk;
}

TEST(Chunks, AreProtobufsMessages) {
  const std::string data = std::string(300, 'a') + std::string(40, 'b') + std::string(1000, 'c');
  for (const uint64_t offset : {uint64_t{1}, uint64_t{300}, uint64_t{1} << 60}) {
    const auto owner = std::make_shared<const std::string>(data);
    const auto all = bytes_of(*owner);
    const Pieces pieces = {all.first(300), all.subspan(300, 40), all.subspan(340)};
    EXPECT_EQ(text_of(write_chunk(offset, pieces, owner)),
              chunk_of(offset, data).SerializeAsString());
    v1::PushPart part;
    *part.mutable_chunk() = chunk_of(offset, data);
    EXPECT_EQ(text_of(write_push_part(offset, grpc::Slice(data))), part.SerializeAsString());
  }
}

TEST(Chunks, KeepTheirOwnerAsLongAsTheyAreNeeded) {
  auto owner = std::make_shared<const std::string>(1000, 'x');
  const std::weak_ptr<const std::string> alive = owner;
  grpc::ByteBuffer message = write_chunk(0, {bytes_of(*owner)}, owner);
  owner.reset();
  EXPECT_FALSE(alive.expired());
  EXPECT_EQ(text_of(message), chunk_of(0, std::string(1000, 'x')).SerializeAsString());
  message.Clear();
  EXPECT_TRUE(alive.expired());
}

TEST(Chunks, AreReadHoweverTheyAreCut) {
  const std::string data(500, 'q');
  const v1::Chunk chunk = chunk_of(77, data);
  v1::PushPart part;
  *part.mutable_chunk() = chunk;
  v1::PushPart opening;
  opening.mutable_open()->set_bytes(12);
  opening.mutable_open()->set_session("s");
  for (const size_t step : {size_t{1}, size_t{3}, size_t{64}, size_t{1000}}) {
    ChunkView view;
    grpc::ByteBuffer buffer = cut(chunk.SerializeAsString(), step);
    ASSERT_TRUE(read_chunk(buffer, view));
    EXPECT_EQ(view.offset, 77U);
    EXPECT_EQ(view.size, 500U);
    EXPECT_EQ(text_of(view.pieces), data);
    EXPECT_TRUE(view.intact());
    ++view.check;
    EXPECT_FALSE(view.intact());

    bool is_open = true;
    v1::PushOpen open;
    buffer = cut(part.SerializeAsString(), step);
    ASSERT_TRUE(read_push_part(buffer, is_open, open, view));
    EXPECT_FALSE(is_open);
    EXPECT_EQ(text_of(view.pieces), data);
    EXPECT_TRUE(view.intact());
    buffer = cut(opening.SerializeAsString(), step);
    ASSERT_TRUE(read_push_part(buffer, is_open, open, view));
    EXPECT_TRUE(is_open);
    EXPECT_EQ(open.bytes(), 12U);
    EXPECT_EQ(view.size, 0U);
  }
}

TEST(Chunks, WhatIsCutOffOrMeaninglessIsNone) {
  const std::string whole = chunk_of(1, "some data").SerializeAsString();
  ChunkView view;
  for (size_t size = 1; size < whole.size(); ++size) {
    grpc::ByteBuffer buffer = cut(whole.substr(0, size), 2);
    v1::Chunk reference;
    EXPECT_EQ(read_chunk(buffer, view), reference.ParseFromString(whole.substr(0, size))) << size;
  }
  bool is_open = false;
  v1::PushOpen open;
  // Nothing; a group; a length beyond the end; tags of field 0; one of six bytes; a
  // length of ten.
  for (const std::string& text :
       {std::string(), std::string("\x0b"), std::string("\x12\x7f", 2), std::string("\x00\x01", 2),
        std::string("\x05\x05\x05\x08\x00", 5), std::string("\x88\x80\x80\x80\x80\x00\x01", 7),
        std::string("\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x1a", 11)}) {
    grpc::ByteBuffer buffer = cut(text, 1);
    EXPECT_FALSE(read_push_part(buffer, is_open, open, view)) << text;
  }
}

TEST(Chunks, UnknownFieldsAreSkippedAndTheLastOneCounts) {
  // Fields 9 (varint), 10 (fixed 64), 11 (bytes) and 12 (fixed 32) of another release.
  const std::string unknown = std::string("\x48\x05", 2) + "\x51" + "12345678" +
                              std::string("\x5a\x02xy", 4) + "\x65" + "1234";
  v1::Chunk first = chunk_of(1, "first"), second = chunk_of(2, "second");
  const std::string both = first.SerializeAsString() + unknown + second.SerializeAsString();
  grpc::ByteBuffer buffer = cut(both, 5);
  ChunkView view;
  ASSERT_TRUE(read_chunk(buffer, view));
  EXPECT_EQ(text_of(view.pieces), "second");
  EXPECT_EQ(view.offset, 2U);
  // Of two parts the later kind is it, as protobuf's oneof has it.
  v1::PushPart chunk, opening;
  *chunk.mutable_chunk() = first;
  opening.mutable_open()->set_bytes(3);
  bool is_open = false;
  v1::PushOpen open;
  buffer = cut(chunk.SerializeAsString() + unknown + opening.SerializeAsString(), 4);
  ASSERT_TRUE(read_push_part(buffer, is_open, open, view));
  EXPECT_TRUE(is_open);
  buffer = cut(opening.SerializeAsString() + chunk.SerializeAsString(), 4);
  ASSERT_TRUE(read_push_part(buffer, is_open, open, view));
  EXPECT_FALSE(is_open);
  EXPECT_EQ(text_of(view.pieces), "first");
}

}  // namespace
}  // namespace espalier::rpc
