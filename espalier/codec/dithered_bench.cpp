#include <benchmark/benchmark.h>

#include <vector>

#include "espalier/codec/dithered.h"

// Coordinates per second of the dithered code on Gaussian coordinates; argument: bits, coordinates.
namespace espalier::codec {
namespace {

std::vector<float> gaussian(size_t n) {
  Stream stream{Key(1)};
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(stream.normal());
  return x;
}

void dithered_encode(benchmark::State& state) {
  const DitheredCode code(static_cast<double>(state.range(0)));
  const auto x = gaussian(static_cast<size_t>(state.range(1)));
  Bytes bytes;
  for (auto _ : state) {
    bytes.clear();
    code.encode(x, 4096, Key(2), bytes);
    benchmark::DoNotOptimize(bytes.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}

void dithered_decode(benchmark::State& state) {
  const DitheredCode code(static_cast<double>(state.range(0)));
  auto x = gaussian(static_cast<size_t>(state.range(1)));
  Bytes bytes;
  code.encode(x, 4096, Key(2), bytes);
  for (auto _ : state) {
    code.decode(bytes, 4096, Key(2), x);
    benchmark::DoNotOptimize(x.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
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
