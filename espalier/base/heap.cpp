#include "espalier/base/heap.h"

#include <malloc.h>

namespace espalier {

void configure_heap() {
#ifdef M_MMAP_THRESHOLD
  // Large blocks come from the heap and stay there: by default each is mapped, zeroed page by page
  // and unmapped again.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2147483647);
  mallopt(M_TOP_PAD, 64 << 20);
  // One heap for all threads: nothing in the hot path allocates, and heaps of their own keep 200 MB
  // more.
  mallopt(M_ARENA_MAX, 1);
#endif
}

}  // namespace espalier
