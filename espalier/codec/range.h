#pragma once

namespace espalier::codec {

// The least and greatest value (0 and 0 when empty); a zero is +0.
struct Range {
  float low = 0, high = 0;
};

}  // namespace espalier::codec
