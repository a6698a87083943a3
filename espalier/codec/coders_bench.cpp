#include <benchmark/benchmark.h>

#include <cmath>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/codec/dithered.h"
#include "espalier/codec/eden.h"
#include "espalier/codec/test_inputs.h"
#include "espalier/codec/trellis.h"

// Coordinates per second of the codes for Gaussian coordinates.
namespace espalier::codec {
namespace {

constexpr int64_t kCount = 1 << 20;

// encode(x, bytes) appends to `bytes`.
template <class Encode>
void bench_encode(benchmark::State& state, int64_t count, Encode&& encode) {
  const auto x = gaussian(static_cast<size_t>(count), 1);
  Bytes bytes;
  for (auto _ : state) {
    bytes.clear();
    encode(x, bytes);
    benchmark::DoNotOptimize(bytes.data());
  }
  state.SetItemsProcessed(state.iterations() * count);
}

// decode(bytes, out) reads what encode() wrote.
template <class Encode, class Decode>
void bench_decode(benchmark::State& state, int64_t count, Encode&& encode, Decode&& decode) {
  auto x = gaussian(static_cast<size_t>(count), 1);
  Bytes bytes;
  encode(x, bytes);
  for (auto _ : state) {
    decode(bytes, x);
    benchmark::DoNotOptimize(x.data());
  }
  state.SetItemsProcessed(state.iterations() * count);
}

// ---- EDEN; argument: levels
auto encoding(const EdenCode& code) {
  return [&](std::span<const float> x, Bytes& bytes) { code.encode(x, 4096, bytes); };
}

void eden_encode(benchmark::State& state) {
  const EdenCode code(std::log2(static_cast<double>(state.range(0))), EdenScale::kUnbiased);
  bench_encode(state, kCount, encoding(code));
}

void eden_decode(benchmark::State& state) {
  const EdenCode code(std::log2(static_cast<double>(state.range(0))), EdenScale::kUnbiased);
  bench_decode(state, kCount, encoding(code),
               [&](const Bytes& bytes, std::span<float> out) { code.decode(bytes, 4096, out); });
}

BENCHMARK(eden_encode)->Arg(2)->Arg(3)->Arg(4)->Arg(16)->Arg(256);
BENCHMARK(eden_decode)->Arg(2)->Arg(3)->Arg(4)->Arg(16)->Arg(256);

// ---- the dithered code; arguments: bits, coordinates
auto encoding(const DitheredCode& code) {
  return [&](std::span<const float> x, Bytes& bytes) { code.encode(x, 4096, Key(2), bytes); };
}

void dithered_encode(benchmark::State& state) {
  const DitheredCode code(static_cast<double>(state.range(0)));
  bench_encode(state, state.range(1), encoding(code));
}

void dithered_decode(benchmark::State& state) {
  const DitheredCode code(static_cast<double>(state.range(0)));
  bench_decode(
      state, state.range(1), encoding(code),
      [&](const Bytes& bytes, std::span<float> out) { code.decode(bytes, 4096, Key(2), out); });
}

BENCHMARK(dithered_encode)
    ->Args({1, 1 << 20})
    ->Args({2, 1 << 12})
    ->Args({2, 1 << 20})
    ->Args({4, 1 << 20})
    ->Args({8, 1 << 20});
BENCHMARK(dithered_decode)
    ->Args({1, 1 << 20})
    ->Args({2, 1 << 12})
    ->Args({2, 1 << 20})
    ->Args({4, 1 << 20})
    ->Args({8, 1 << 20});

// ---- the trellis code; argument: bits. And the time to make one.
auto encoding(const TrellisCode& code) {
  return [&](std::span<const float> x, Bytes& bytes) { code.encode(x, 4096, bytes); };
}

void trellis_encode(benchmark::State& state) {
  const TrellisCode code(static_cast<double>(state.range(0)));
  bench_encode(state, kCount, encoding(code));
}

void trellis_decode(benchmark::State& state) {
  const TrellisCode code(static_cast<double>(state.range(0)));
  bench_decode(state, kCount, encoding(code),
               [&](const Bytes& bytes, std::span<float> out) { code.decode(bytes, 4096, out); });
}

void trellis_construct(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(TrellisCode(static_cast<double>(state.range(0))));
}

BENCHMARK(trellis_encode)->Arg(1)->Arg(2)->Arg(4)->Arg(7);
BENCHMARK(trellis_decode)->Arg(1)->Arg(2)->Arg(4)->Arg(7);
BENCHMARK(trellis_construct)->Arg(1)->Arg(4)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace espalier::codec
