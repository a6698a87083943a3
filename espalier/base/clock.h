#pragma once

#include <chrono>
#include <cstdint>

namespace espalier {

// Wall-clock seconds since construction or the last restart().
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  void restart() { start_ = std::chrono::steady_clock::now(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// CPU seconds used by the calling thread.
double thread_cpu_seconds();

// Peak resident set size of this process in bytes (getrusage).
uint64_t peak_rss_bytes();

}  // namespace espalier
