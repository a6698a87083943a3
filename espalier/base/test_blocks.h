#pragma once

#include "espalier/base/sanitizers.h"

// For tests: whether large blocks (large_blocks.h) are kept for others. Under sanitizers, which are
// to see where blocks end, each is allocated by itself.
namespace espalier {

inline constexpr bool kBlocksAreKept = !kSanitizedHeap;

}  // namespace espalier
