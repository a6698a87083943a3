#include "espalier/torch/process.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>

#include "espalier/models/process.h"

namespace espalier::torch {

void configure_process() {
  // Debian's pthread OpenBLAS, which libtorch brings along, heeds neither OpenMP's nor libtorch's
  // thread count.
  if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); symbol != nullptr) {
    reinterpret_cast<void (*)(int)>(symbol)(1);
  }
  // Throws when operators have already run in parallel; then there is nothing to be done.
  try {
    at::set_num_interop_threads(1);
  } catch (const std::exception&) {
  }
}

void configure_thread() {
  at::set_num_threads(1);
  at::globalContext().setFlushDenormal(true);
}

}  // namespace espalier::torch
