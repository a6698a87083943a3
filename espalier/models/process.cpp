#include "espalier/models/process.h"

#include <omp.h>

#include "espalier/base/heap.h"
#include "espalier/models/foreign.h"
#include "espalier/nn/denormals.h"

namespace espalier::models {

void configure_process() {
  configure_heap();
  foreign_engine().configure_process();
  configure_thread();
}

void configure_thread() {
  omp_set_num_threads(1);  // OpenMP keeps this per thread; oneDNN heeds it
  nn::flush_denormals();
  foreign_engine().configure_thread();
}

}  // namespace espalier::models
