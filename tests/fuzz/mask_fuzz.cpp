// Masks from hostile bytes, over layouts with every kind of tensor. What is accepted must be
// exactly the bytes that its mask is encoded as.
#include <cstdint>

#include "espalier/base/error.h"
#include "espalier/prune/mask.h"

namespace {

using namespace espalier;

const std::vector<std::shared_ptr<const ParameterLayout>>& layouts() {
  const auto make = [](std::vector<ParameterInfo> tensors) {
    return std::make_shared<const ParameterLayout>(std::move(tensors));
  };
  static const std::vector<std::shared_ptr<const ParameterLayout>> all = {
      make({{.name = "m", .shape = {2, 3}}, {.name = "v", .shape = {4}}}),
      make({{.name = "conv", .shape = {16, 3, 5, 5}},
            {.name = "bias", .shape = {16}, .role = Role::kBias},
            {.name = "none", .shape = {0, 3}},
            {.name = "steps", .shape = {}, .role = Role::kCounter},
            {.name = "column", .shape = {130, 1}},
            {.name = "row", .shape = {1, 67}},
            {.name = "fc", .shape = {20, 100}}}),
      make({{.name = "large", .shape = {300, 1000}}}),
  };
  return all;
}

}  // namespace

// A byte for the layout, then the mask.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const Bytes bytes(data + 1, data + size);
  try {
    const prune::Mask mask =
        prune::decode_mask(bytes, layouts()[data[0] % layouts().size()], "fuzz");
    Bytes again;
    prune::encode_mask(mask, again);
    ESPALIER_CHECK(again == bytes, again.size(), " bytes of ", bytes.size());
  } catch (const Error&) {
  }
  return 0;
}
