#include "espalier/models/process.h"

#include <malloc.h>
#include <omp.h>

#include "espalier/models/foreign.h"
#include "espalier/nn/denormals.h"

namespace espalier::models {

void configure_process() {
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
  foreign_engine().configure_process();
  configure_thread();
}

void configure_thread() {
  omp_set_num_threads(1);  // OpenMP keeps this per thread; oneDNN heeds it
  nn::flush_denormals();
  foreign_engine().configure_thread();
}

}  // namespace espalier::models
