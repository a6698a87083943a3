#include "espalier/codec/bench_coding.h"
#include "espalier/codec/dithered.h"

// Coordinates per second of the dithered code on Gaussian coordinates; argument: bits, coordinates.
namespace espalier::codec {
namespace {

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

}  // namespace
}  // namespace espalier::codec
