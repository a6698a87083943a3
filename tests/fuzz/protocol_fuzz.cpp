// What a peer may send before anything else is looked at: bytes → protobuf → plain messages. Only a
// Refusal may come out, and what is taken means the same once more.
#include <grpcpp/support/byte_buffer.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "espalier/rpc/chunks.h"
#include "espalier/rpc/convert.h"
#include "espalier/rpc/refusal.h"

namespace {

template <class Proto>
void parse(const std::string& bytes) {
  Proto proto;
  if (!proto.ParseFromString(bytes)) return;
  try {
    const auto plain = espalier::rpc::from_proto(proto);
    const Proto again = espalier::rpc::to_proto(plain);
    if (espalier::rpc::to_proto(espalier::rpc::from_proto(again)).SerializeAsString() !=
        again.SerializeAsString())
      __builtin_trap();
  } catch (const espalier::rpc::Refusal&) {
  }
}

// What the bulk's own parser takes, protobuf takes, with the same contents, however the bytes are
// cut into slices. (It refuses groups, which protobuf skips.)
grpc::ByteBuffer cut(const std::string& bytes) {
  std::vector<grpc::Slice> slices;
  const size_t step = bytes.empty() ? 1 : 1 + static_cast<uint8_t>(bytes[0]) % 61;
  for (size_t at = 0; at < bytes.size(); at += step)
    slices.emplace_back(bytes.data() + at, std::min(step, bytes.size() - at));
  return {slices.data(), slices.size()};
}

bool same(const espalier::rpc::ChunkView& view, const espalier::v1::Chunk& chunk) {
  std::string data;
  for (const auto piece : view.pieces) data.append(piece.begin(), piece.end());
  return view.offset == chunk.offset() && view.check == chunk.check() && data == chunk.data() &&
         view.size == data.size();
}

void parse_chunk(const std::string& bytes) {
  grpc::ByteBuffer buffer = cut(bytes);
  espalier::rpc::ChunkView view;
  if (!espalier::rpc::read_chunk(buffer, view)) return;
  espalier::v1::Chunk chunk;
  if (!chunk.ParseFromString(bytes) || !same(view, chunk)) __builtin_trap();
}

void parse_push_part(const std::string& bytes) {
  grpc::ByteBuffer buffer = cut(bytes);
  bool is_open = false;
  espalier::v1::PushOpen open;
  espalier::rpc::ChunkView view;
  if (!espalier::rpc::read_push_part(buffer, is_open, open, view)) return;
  espalier::v1::PushPart part;
  if (!part.ParseFromString(bytes) || is_open != part.has_open()) __builtin_trap();
  if (is_open ? open.SerializeAsString() != part.open().SerializeAsString()
              : !same(view, part.chunk()))
    __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace espalier::v1;
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 11) {
    case 0:
      parse<CheckInRequest>(bytes);
      break;
    case 1:
      parse<CheckInReply>(bytes);
      break;
    case 2:
      parse<AwaitRequest>(bytes);
      break;
    case 3:
      parse<AwaitReply>(bytes);
      break;
    case 4:
      parse<FetchRequest>(bytes);
      break;
    case 5:
      parse<PushOpen>(bytes);
      break;
    case 6:
      parse<PushReply>(bytes);
      break;
    case 7:
      parse<ReportRequest>(bytes);
      break;
    case 8:
      parse<ReportReply>(bytes);
      break;
    case 9:
      parse_chunk(bytes);
      break;
    default:
      parse_push_part(bytes);
  }
  return 0;
}
