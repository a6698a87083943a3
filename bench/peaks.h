#pragma once

#include "bench/floors.h"

namespace espalier::bench {

struct PeakOptions {
  size_t threads = 1;             // that run each loop at the same time
  double seconds = 0.004;         // of one try: less than what a scheduler takes away at a time
  int tries = 25;                 // of which the best counts: others use the machine, too
  uint64_t most_bytes = 1 << 30;  // of the memory that a bandwidth is measured in, per thread
};

// Measures what this machine can do. Products: loops on registers alone of fused multiply-adds in
// fp32; of the bf16 dot product (AVX-512 BF16) and of tile products (AMX), where the processor has
// them, and the best of all three counts for bf16. Bytes per second: sums, copies and a[i] = b[i] +
// c[i], the best of them, over half of each cache and over memory beyond the last.
Peaks measure_peaks(const PeakOptions& options);

}  // namespace espalier::bench
