#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>

#include "espalier/base/simd.h"
#include "espalier/nn/kernels.h"

// Lanes: 16 floats side by side, for kernels whose loops the compiler does not vectorize by itself.
// Such a kernel is a template of the type, and with_lanes() calls it with that of the processor:
// one register of AVX-512, a pair of AVX2's, or two pairs. (GCC would take wider vectors apart
// itself, but in memory, at a fifth of the speed.) They are never passed between functions that are
// not inlined, which is what the warning is about.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace espalier::nn {

constexpr size_t kLanes = 16;

template <class T, size_t kSize>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kSize * sizeof(T))));
};
using Lanes512 = VectorOf<float, 16>::Type;
template <class Half>
struct Pair {
  Half low, high;
};
using Lanes256 = Pair<VectorOf<float, 8>::Type>;
using Lanes128 = Pair<Pair<VectorOf<float, 4>::Type>>;

// How many Lanes the registers hold.
template <class Lanes>
constexpr size_t kLanesInRegisters = std::same_as<Lanes, Lanes512>   ? 32
                                     : std::same_as<Lanes, Lanes256> ? 8
                                                                     : 4;

// One register.
template <class V>
concept Register = !requires(V v) {
  v.low;
};
template <class T, Register V>
using Like = typename VectorOf<T, sizeof(V) / sizeof(float)>::Type;

// Unsigned integers beside each of the floats.
template <class V>
struct WordsOf {
  using Type = Like<uint32_t, V>;
};
template <class Half>
struct WordsOf<Pair<Half>> {
  using Type = Pair<typename WordsOf<Half>::Type>;
};
template <class Lanes>
using Words = typename WordsOf<Lanes>::Type;

// x in all places. Subtracted from zeros that the compiler sees late: an expression that it knows
// to be x in all places it would put together in memory, value by value.
template <class V, class T>
ESPALIER_INLINE V broadcast(T x) {
  if constexpr (Register<V>) {
    V zeros;
    std::memset(&zeros, 0, sizeof(zeros));
    return x - zeros;
  } else {
    const auto half = broadcast<decltype(V::low)>(x);
    return {half, half};
  }
}

template <class Half>
ESPALIER_INLINE Pair<Half> operator+(const Pair<Half>& a, const Pair<Half>& b) {
  return {a.low + b.low, a.high + b.high};
}
template <class Half>
ESPALIER_INLINE Pair<Half> operator-(const Pair<Half>& a, const Pair<Half>& b) {
  return {a.low - b.low, a.high - b.high};
}
template <class Half>
ESPALIER_INLINE Pair<Half> operator*(const Pair<Half>& a, const Pair<Half>& b) {
  return {a.low * b.low, a.high * b.high};
}
template <class Half>
ESPALIER_INLINE Pair<Half> operator*(const Pair<Half>& a, float b) {
  return {a.low * b, a.high * b};
}
template <class Half>
ESPALIER_INLINE void operator+=(Pair<Half>& a, const Pair<Half>& b) {
  a.low += b.low;
  a.high += b.high;
}
template <class Half>
ESPALIER_INLINE void operator-=(Pair<Half>& a, const Pair<Half>& b) {
  a.low -= b.low;
  a.high -= b.high;
}

// x where a > b, else y; x and y may be Words.
template <Register V, Register X>
ESPALIER_INLINE X select_greater(const V& a, const V& b, const X& x, const X& y) {
  return a > b ? x : y;
}
template <class Half, class X>
ESPALIER_INLINE Pair<X> select_greater(const Pair<Half>& a, const Pair<Half>& b, const Pair<X>& x,
                                       const Pair<X>& y) {
  return {select_greater(a.low, b.low, x.low, y.low),
          select_greater(a.high, b.high, x.high, y.high)};
}
// x where a > floor, else 0. As bits: a comparison's result is all ones or all zeros.
template <Register V>
ESPALIER_INLINE V keep_greater(const V& x, const V& a, float floor) {
  return (V)((Words<V>)x & (Words<V>)(a > floor));
}
template <class Half>
ESPALIER_INLINE Pair<Half> keep_greater(const Pair<Half>& x, const Pair<Half>& a, float floor) {
  return {keep_greater(x.low, a.low, floor), keep_greater(x.high, a.high, floor)};
}
// x where a == b, else 0.
template <Register V>
ESPALIER_INLINE V keep_equal(const V& x, const Words<V>& a, uint32_t b) {
  return (V)((Words<V>)x & (Words<V>)(a == b));
}
template <class Half>
ESPALIER_INLINE Pair<Half> keep_equal(const Pair<Half>& x, const Words<Pair<Half>>& a, uint32_t b) {
  return {keep_equal(x.low, a.low, b), keep_equal(x.high, a.high, b)};
}

template <Register V>
ESPALIER_INLINE void load(const float* from, V& to) {
  std::memcpy(&to, from, sizeof(to));
}
template <Register V>
ESPALIER_INLINE void load(const Bf16* from, V& to) {
  Like<uint16_t, V> halves;
  std::memcpy(&halves, from, sizeof(halves));
  const Words<V> words = __builtin_convertvector(halves, Words<V>) << 16;
  std::memcpy(&to, &words, sizeof(to));
}
template <Register V>
ESPALIER_INLINE void load(const uint8_t* from, V& to) {
  Like<uint8_t, V> quarters;
  std::memcpy(&quarters, from, sizeof(quarters));
  to = __builtin_convertvector(quarters, V);
}
template <Register V>
ESPALIER_INLINE void store(const V& from, float* to) {
  std::memcpy(to, &from, sizeof(from));
}
template <Register V>
ESPALIER_INLINE void store(const V& from, Bf16* to) {
  Words<V> words;
  std::memcpy(&words, &from, sizeof(words));
  const Words<V> rounded = (words + 0x7fffU + ((words >> 16) & 1U)) >> 16;
  const Words<V> quiet = (from != from) ? Words<V>{} + 0x7fc0U : rounded;
  const auto halves = __builtin_convertvector(quiet, Like<uint16_t, V>);
  std::memcpy(to, &halves, sizeof(halves));
}
template <Register V>
ESPALIER_INLINE void store(const V& from, uint8_t* to) {
  const auto quarters = __builtin_convertvector(from, Like<uint8_t, V>);
  std::memcpy(to, &quarters, sizeof(quarters));
}
template <class T, class Half>
ESPALIER_INLINE void load(const T* from, Pair<Half>& to) {
  load(from, to.low);
  load(from + sizeof(Half) / sizeof(float), to.high);
}
template <class T, class Half>
ESPALIER_INLINE void store(const Pair<Half>& from, T* to) {
  store(from.low, to);
  store(from.high, to + sizeof(Half) / sizeof(float));
}

// Calls call.template operator()<Lanes>(), compiled for the processor's instructions; `call` is an
// always_inline lambda, and so is all that it calls. As ESPALIER_KERNEL, but for templates of
// Lanes.
#ifdef ESPALIER_HAS_CLONES
template <class Call>
__attribute__((target("arch=x86-64-v4"))) void call_with_512(const Call& call) {
  call.template operator()<Lanes512>();
}
template <class Call>
__attribute__((target("arch=x86-64-v3"))) void call_with_256(const Call& call) {
  call.template operator()<Lanes256>();
}
template <class Call>
void with_lanes(const Call& call) {
  static const int level = __builtin_cpu_supports("x86-64-v4")   ? 4
                           : __builtin_cpu_supports("x86-64-v3") ? 3
                                                                 : 2;
  if (level == 4) return call_with_512(call);
  if (level == 3) return call_with_256(call);
  call.template operator()<Lanes128>();
}
#else
template <class Call>
void with_lanes(const Call& call) {
#if defined(__AVX512F__)
  call.template operator()<Lanes512>();
#elif defined(__AVX__)
  call.template operator()<Lanes256>();
#else
  call.template operator()<Lanes128>();
#endif
}
#endif

}  // namespace espalier::nn
