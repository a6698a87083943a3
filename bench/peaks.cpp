#include "bench/peaks.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <functional>
#include <memory>
#include <thread>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/base/simd.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#endif

namespace espalier::bench {

namespace {

// Read and written where the compiler cannot see through.
volatile float start_value = 1, factor = 0.5f, sink = 0;

// A loop's work for a number of turns: products, or bytes.
using Loop = std::function<uint64_t(uint64_t turns)>;
struct Candidate {
  std::string name;
  Loop loop;
};

// x ← x·a + b, which stays at 2: no value grows, shrinks or repeats another's chain.
constexpr int kChains = 12;

uint64_t fp32_plain(uint64_t turns) {
  constexpr size_t kLanes = 64;
  float x[kLanes];
  for (float& value : x) value = start_value;
  const float a = factor, b = start_value;
  for (uint64_t t = 0; t < turns; ++t) {
    for (float& value : x) value = value * a + b;
  }
  for (const float value : x) sink = value;
  return turns * kLanes;
}

#if defined(__x86_64__)

[[gnu::target("avx2,fma")]] uint64_t fp32_avx2(uint64_t turns) {
  __m256 x[kChains];
  for (__m256& value : x) value = _mm256_set1_ps(start_value);
  const __m256 a = _mm256_set1_ps(factor), b = _mm256_set1_ps(start_value);
  for (uint64_t t = 0; t < turns; ++t) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) x[i] = _mm256_fmadd_ps(x[i], a, b);
  }
  for (const __m256& value : x) sink = _mm256_cvtss_f32(value);
  return turns * kChains * 8;
}

[[gnu::target("avx512f")]] uint64_t fp32_avx512(uint64_t turns) {
  __m512 x[kChains];
  for (__m512& value : x) value = _mm512_set1_ps(start_value);
  const __m512 a = _mm512_set1_ps(factor), b = _mm512_set1_ps(start_value);
  for (uint64_t t = 0; t < turns; ++t) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) x[i] = _mm512_fmadd_ps(x[i], a, b);
  }
  for (const __m512& value : x) sink = _mm512_cvtss_f32(value);
  return turns * kChains * 16;
}

[[gnu::target("avx512f,avx512bf16")]] uint64_t bf16_avx512(uint64_t turns) {
  constexpr int kOnes = 0x3f803f80;  // two bf16 of 1
  __m512 x[kChains];
  for (__m512& value : x) value = _mm512_set1_ps(start_value);
  const auto a = (__m512bh)_mm512_set1_epi32(kOnes);
  const auto b = (__m512bh)_mm512_set1_epi32(static_cast<int>(factor) + kOnes);
  for (uint64_t t = 0; t < turns; ++t) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) x[i] = _mm512_dpbf16_ps(x[i], a, b);
  }
  for (const __m512& value : x) sink = _mm512_cvtss_f32(value);
  return turns * kChains * 32;
}

// C (16 × 16) += A (16 × 32)·B (32 × 16) in six chains, which hide the latency.
[[gnu::target("amx-tile,amx-bf16")]] uint64_t bf16_amx(uint64_t turns) {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  asm volatile("" : : "m"(config));  // all of it is read, which not every compiler knows
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (uint64_t t = 0; t < turns; ++t) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return turns * 6 * 16 * 16 * 32;
}

// The processor has tiles and the system lets this process use them.
bool has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16 = 1U << 22, kTile = 1U << 24;
  if ((d & kBf16) == 0 || (d & kTile) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2)
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_supports("avx512f") && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 &&
         (a & (1U << 5)) != 0;
}

#endif

Candidate fp32_candidate() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {"AVX-512 FMA", fp32_avx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {"AVX2 FMA", fp32_avx2};
#endif
  return {"compiled multiply-add", fp32_plain};
}

std::vector<Candidate> bf16_candidates() {
  std::vector<Candidate> found;
#if defined(__x86_64__)
  if (has_avx512_bf16()) found.push_back({"AVX-512 BF16", bf16_avx512});
  if (has_amx_bf16()) found.push_back({"AMX BF16", bf16_amx});
#endif
  return found;
}

// --- memory

// All three take whole cache lines of 16 words.
using Word = uint32_t;
constexpr size_t kLine = 16;

ESPALIER_KERNEL void sum(const Word* a, size_t count, Word* out) {
  Word found = 0;
  for (size_t i = 0; i < count; ++i) found += a[i];
  *out = found;
}

ESPALIER_KERNEL void copy(const Word* __restrict a, size_t count, Word* __restrict b) {
  for (size_t i = 0; i < count; ++i) b[i] = a[i];
}

ESPALIER_KERNEL void add(const Word* __restrict a, const Word* __restrict b, size_t count,
                         Word* __restrict c) {
  for (size_t i = 0; i < count; ++i) c[i] = a[i] + b[i];
}

#if defined(__x86_64__)

// Compilers use half of the width unless they are told so.
[[gnu::target("avx512f")]] void sum_avx512(const Word* a, size_t count, Word* out) {
  __m512i sums[4];
  for (__m512i& one : sums) one = _mm512_setzero_si512();
  for (size_t i = 0; i + 4 * kLine <= count; i += 4 * kLine) {
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j)
      sums[j] = _mm512_add_epi32(sums[j], _mm512_load_si512(a + i + j * kLine));
  }
  alignas(64) Word lanes[kLine];
  _mm512_store_si512(lanes, _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]),
                                             _mm512_add_epi32(sums[2], sums[3])));
  *out = lanes[0];
}

[[gnu::target("avx512f")]] void copy_avx512(const Word* __restrict a, size_t count,
                                            Word* __restrict b) {
#pragma GCC unroll 8
  for (size_t i = 0; i < count; i += kLine) _mm512_store_si512(b + i, _mm512_load_si512(a + i));
}

[[gnu::target("avx512f")]] void add_avx512(const Word* __restrict a, const Word* __restrict b,
                                           size_t count, Word* __restrict c) {
#pragma GCC unroll 8
  for (size_t i = 0; i < count; i += kLine) {
    _mm512_store_si512(c + i, _mm512_add_epi32(_mm512_load_si512(a + i), _mm512_load_si512(b + i)));
  }
}

#endif

struct Kernels {
  decltype(&sum) sum_of = sum;
  decltype(&copy) copy_of = copy;
  decltype(&add) add_of = add;
};
Kernels kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {sum_avx512, copy_avx512, add_avx512};
#endif
  return {};
}

// A thread's own, in large pages where the system has them.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes) {
    void* const at =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail("bench/peaks", "no memory of ", bytes_, " bytes to measure in");
    ::madvise(at, bytes_, MADV_HUGEPAGE);
    data_ = static_cast<Word*>(at);
    std::fill_n(data_, words(), Word{1});
  }
  ~Memory() { ::munmap(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Word* data() const { return data_; }
  size_t words() const { return bytes_ / sizeof(Word); }

 private:
  size_t bytes_;
  Word* data_;
};

// Each turn takes the next piece of the memory, so that a try need not last as long as a pass over
// all of it. A loop's streams lie one behind the other, in runs of lines.
std::vector<Loop> memory_loops(Memory& memory) {
  Word* const at = memory.data();
  const Kernels run = kernels();
  constexpr size_t kPiece = size_t{1} << 18;
  const auto loop = [&](size_t streams, auto body) -> Loop {
    const size_t part = memory.words() / streams / (8 * kLine) * (8 * kLine);
    const size_t piece = std::min(part, kPiece), pieces = part / piece;
    return [=, next = size_t{0}](uint64_t turns) mutable {
      for (uint64_t t = 0; t < turns; ++t) {
        body(at + next * piece, part, piece);
        next = (next + 1) % pieces;
      }
      return turns * streams * piece * sizeof(Word);
    };
  };
  return {loop(1,
               [run](Word* a, size_t, size_t count) {
                 Word out = 0;
                 run.sum_of(a, count, &out);
                 sink = static_cast<float>(out);
               }),
          loop(2, [run](Word* a, size_t part, size_t count) { run.copy_of(a, count, a + part); }),
          loop(3, [run](Word* a, size_t part, size_t count) {
            run.add_of(a, a + part, count, a + 2 * part);
          })};
}

// --- measuring

// Work per second of all threads together: each thread's own rate while all of them run, the best
// of the tries.
double best_rate(const PeakOptions& options, const std::vector<Loop>& loops) {
  const size_t threads = loops.size();
  std::barrier<> together(static_cast<std::ptrdiff_t>(threads));
  std::vector<double> tries(static_cast<size_t>(options.tries) * threads);
  const auto work = [&](size_t thread) {
    Loop loop = loops[thread];
    uint64_t turns = 1;
    while (true) {  // as many turns as take the time of a try
      const Stopwatch watch;
      loop(turns);
      const double seconds = watch.seconds();
      if (seconds >= options.seconds / 4 || turns >= uint64_t{1} << 40) {
        turns = std::max<uint64_t>(
            1, static_cast<uint64_t>(static_cast<double>(turns) * options.seconds / seconds));
        break;
      }
      turns *= seconds < options.seconds / 64 ? 8 : 2;
    }
    for (int t = 0; t < options.tries; ++t) {
      together.arrive_and_wait();
      const Stopwatch watch;
      const uint64_t done = loop(turns);
      tries[static_cast<size_t>(t) * threads + thread] =
          static_cast<double>(done) / watch.seconds();
    }
  };
  std::vector<std::jthread> others;
  for (size_t i = 1; i < threads; ++i) others.emplace_back(work, i);
  work(0);
  others.clear();
  double best = 0;
  for (size_t t = 0; t < static_cast<size_t>(options.tries); ++t) {
    double rate = 0;
    for (size_t i = 0; i < threads; ++i) rate += tries[t * threads + i];
    best = std::max(best, rate);
  }
  return best;
}

double best_rate(const PeakOptions& options, const Loop& loop) {
  return best_rate(options, std::vector<Loop>(options.threads, loop));
}

double bandwidth(const PeakOptions& options, uint64_t bytes) {
  std::vector<std::unique_ptr<Memory>> memory;
  std::vector<std::vector<Loop>> loops;
  for (size_t i = 0; i < options.threads; ++i) {
    memory.push_back(std::make_unique<Memory>(static_cast<size_t>(bytes)));
    loops.push_back(memory_loops(*memory.back()));
  }
  double best = 0;
  for (size_t kind = 0; kind < loops.front().size(); ++kind) {
    std::vector<Loop> same;
    for (const auto& own : loops) same.push_back(own[kind]);
    best = std::max(best, best_rate(options, same));
  }
  return best;
}

// As the C library knows it; 0: there is none, or it does not say.
uint64_t cache_bytes(int name) {
  const long bytes = ::sysconf(name);
  return bytes > 0 ? static_cast<uint64_t>(bytes) : 0;
}

}  // namespace

Peaks measure_peaks(const PeakOptions& options) {
  Peaks peaks;
  peaks.threads = options.threads;
  const Candidate fp32 = fp32_candidate();
  peaks.fp32_by = peaks.bf16_by = fp32.name;
  peaks.fp32_macs_per_second = peaks.bf16_macs_per_second = best_rate(options, fp32.loop);
  for (const Candidate& one : bf16_candidates()) {
    const double rate = best_rate(options, one.loop);
    if (rate <= peaks.bf16_macs_per_second) continue;
    peaks.bf16_macs_per_second = rate;
    peaks.bf16_by = one.name;
  }
  constexpr uint64_t kMostOfACache = 32 << 20, kBeyond = 64 << 20;
  uint64_t largest = 0;
  const auto add_level = [&](const char* name, uint64_t bytes) {
    if (bytes <= largest) return;
    largest = bytes;
    peaks.levels.push_back(
        {name, bytes, bandwidth(options, std::min(bytes / 2, kMostOfACache / options.threads))});
  };
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  add_level("L1", cache_bytes(_SC_LEVEL1_DCACHE_SIZE));
  add_level("L2", cache_bytes(_SC_LEVEL2_CACHE_SIZE));
  add_level("L3", cache_bytes(_SC_LEVEL3_CACHE_SIZE));
#endif
  const uint64_t beyond = std::min(std::max(2 * largest, kBeyond), options.most_bytes);
  peaks.levels.push_back({"memory", 0, bandwidth(options, beyond)});
  return peaks;
}

}  // namespace espalier::bench
