// What a peer may send before anything else is looked at: bytes → protobuf → plain messages. Only a
// Refusal may come out, and what is taken means the same once more.
#include <cstdint>
#include <string>

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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace espalier::v1;
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 9) {
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
    default:
      parse<ReportReply>(bytes);
  }
  return 0;
}
