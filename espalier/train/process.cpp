#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <malloc.h>
#include <omp.h>

#include "espalier/train/trainer.h"

namespace espalier::train {

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
  // Debian's pthread OpenBLAS heeds neither OpenMP's nor libtorch's thread count.
  if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); symbol != nullptr) {
    reinterpret_cast<void (*)(int)>(symbol)(1);
  }
  // Throws when operators have already run in parallel; then there is nothing to be done.
  try {
    at::set_num_interop_threads(1);
  } catch (const std::exception&) {
  }
  configure_thread();
}

void configure_thread() {
  omp_set_num_threads(1);  // OpenMP keeps this per thread
  at::set_num_threads(1);
  at::globalContext().setFlushDenormal(true);
}

}  // namespace espalier::train
