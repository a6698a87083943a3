// Encoded messages from anybody. The checksum is repaired first, so that the fuzzer gets behind it;
// then the message is decoded by what it says of itself and as a client with a fixed codec and
// layout would.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/codec/codec.h"
#include "espalier/codec/message.h"

namespace {

using namespace espalier;

void check(const ParameterSet& values) {
  if (!all_finite(values.values())) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto kCodec =
      codec::make_codec(codec::parse_stages("hadamard,quantize:bits=4"), "fuzz");
  static const auto kLayout = std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"conv.weight", {8, 4, 5, 5}, Role::kWeight},
                                 {"conv.bias", {8}, Role::kBias},
                                 {"fc.weight", {10, 541}, Role::kWeight},
                                 {"count", {}, Role::kCounter}});
  Bytes message(data, data + size);
  if (message.size() >= 4) {
    message.resize(message.size() - 4);
    const uint32_t sum = checksum32(message);
    ByteWriter(message).put(sum);
  }
  try {
    check(codec::decode_any(message, 1 << 16));
  } catch (const Error&) {
  }
  try {
    ParameterSet out(kLayout);
    kCodec->decode(message, out);
    check(out);
  } catch (const Error&) {
  }
  // Tensor by tensor, as FedGKT's server does.
  try {
    const codec::MessageIndex index = kCodec->index(message, kLayout);
    ParameterSet out(kLayout);
    for (size_t t = 0; t < index.num_tensors(); ++t) {
      const auto& range = index.range(t);
      kCodec->decode_tensor(index, t, std::span(message).subspan(range.offset, range.size),
                            out.values(kLayout->tensors()[t]));
    }
    check(out);
  } catch (const Error&) {
  }
  return 0;
}
