#include "espalier/base/bytes.h"

namespace espalier {

void append_bytes(const void* data, size_t size, Bytes& out) {
  const auto* const first = static_cast<const uint8_t*>(data);
  out.insert(out.end(), first, first + size);
}

}  // namespace espalier
