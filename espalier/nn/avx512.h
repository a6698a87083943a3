#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <dnnl.hpp>

// What kernels written for AVX-512 share: included by their source files alone. Functions say which
// instructions they use; whoever calls them has asked whether the processor has them. Masked forms
// stand where GCC warns of values that the others do not set.
#define ESPALIER_AVX512 __attribute__((target("avx512f")))
#define ESPALIER_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace espalier::nn::avx512 {

constexpr size_t kLanes = 16;
constexpr __mmask16 kAll = 0xffff;

// The processor has the dot product of bf16, and oneDNN is told to use it.
inline bool has_dot_product() {
  static const bool has = dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_bf16 &&
                          __builtin_cpu_supports("avx512bf16");
  return has;
}

constexpr size_t rounded_up(size_t count, size_t step) { return (count + step - 1) / step * step; }

ESPALIER_AVX512 inline __mmask16 first_lanes(size_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffff : (1U << count) - 1);
}

// 8 + 8, 4 + 4, 2 + 2, 1 + 1.
ESPALIER_AVX512 inline float fold(__m512 sums) {
  sums = _mm512_add_ps(sums, _mm512_mask_shuffle_f32x4(sums, kAll, sums, sums, 0x4e));
  sums = _mm512_add_ps(sums, _mm512_mask_shuffle_f32x4(sums, kAll, sums, sums, 0xb1));
  sums = _mm512_add_ps(sums, _mm512_mask_permute_ps(sums, kAll, sums, 0x4e));
  return sums[0] + sums[1];
}

// Two rows of 16 bf16 values, the second behind the first: the first's beside the second's.
ESPALIER_BF16 inline __m512i interleave(__m512i rows) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_maskz_permutexvar_epi16(~__mmask32{0}, _mm512_load_si512(kOrder), rows);
}

// Per lane: sum + a's first value · b's first + a's second · b's second.
ESPALIER_BF16 inline __m512 add_products(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
ESPALIER_BF16 inline __m512i broadcast(uint32_t pair) {
  return _mm512_set1_epi32(static_cast<int>(pair));
}

}  // namespace espalier::nn::avx512

#endif
