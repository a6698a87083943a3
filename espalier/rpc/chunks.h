#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "espalier/rpc/federation.pb.h"
#include "espalier/rpc/service.h"

// The messages that carry bulk (Chunk, and PushPart with a Chunk in it; docs/protocol.md), read and
// written where gRPC holds them: what they carry is not copied. Other implementations see ordinary
// protobuf messages.
namespace espalier::rpc {

// A Chunk as it came; `pieces` lie in the buffer that it was read from.
struct ChunkView {
  uint64_t offset = 0;
  uint32_t check = 0;
  uint64_t size = 0;
  Pieces pieces;
  // Whether the check is that of the pieces.
  bool intact() const;
};

// False for what is no such message. Unknown fields are skipped, as protobuf does. The buffer is
// not changed, and has to live as long as the view.
bool read_chunk(grpc::ByteBuffer& buffer, ChunkView& chunk);
// `is_open`: it is an opening, and `open` is filled; else it is a chunk.
bool read_push_part(grpc::ByteBuffer& buffer, bool& is_open, v1::PushOpen& open, ChunkView& chunk);

// A Chunk of these pieces, which `owner` keeps alive for as long as gRPC has need of them.
grpc::ByteBuffer write_chunk(uint64_t offset, const Pieces& pieces,
                             const std::shared_ptr<const void>& owner);
// A PushPart with a Chunk of this slice.
grpc::ByteBuffer write_push_part(uint64_t offset, const grpc::Slice& data);

// Any other message.
bool read_proto(const grpc::ByteBuffer& buffer, google::protobuf::MessageLite& proto);
grpc::ByteBuffer write_proto(const google::protobuf::MessageLite& proto);

}  // namespace espalier::rpc
