#pragma once

// For tests: whether large blocks (large_blocks.h) are kept for others. Under sanitizers, which are
// to see where blocks end, each is allocated by itself.
namespace espalier {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kBlocksAreKept = false;
#else
inline constexpr bool kBlocksAreKept = true;
#endif

}  // namespace espalier
