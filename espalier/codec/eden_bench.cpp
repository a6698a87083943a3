#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/codec/eden.h"

// Coordinates per second of EDEN on Gaussian coordinates; argument: levels.
namespace espalier::codec {
namespace {

constexpr size_t kCount = 1 << 20;

std::vector<float> gaussian() {
  Stream stream{Key(1)};
  std::vector<float> x(kCount);
  for (float& v : x) v = static_cast<float>(stream.normal());
  return x;
}

void eden_encode(benchmark::State& state) {
  const EdenCode code(std::log2(static_cast<double>(state.range(0))), EdenScale::kUnbiased);
  const auto x = gaussian();
  Bytes bytes;
  for (auto _ : state) {
    bytes.clear();
    code.encode(x, 4096, bytes);
    benchmark::DoNotOptimize(bytes.data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kCount));
}

void eden_decode(benchmark::State& state) {
  const EdenCode code(std::log2(static_cast<double>(state.range(0))), EdenScale::kUnbiased);
  auto x = gaussian();
  Bytes bytes;
  code.encode(x, 4096, bytes);
  for (auto _ : state) {
    code.decode(bytes, 4096, x);
    benchmark::DoNotOptimize(x.data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kCount));
}

BENCHMARK(eden_encode)->Arg(2)->Arg(3)->Arg(4)->Arg(16)->Arg(256);
BENCHMARK(eden_decode)->Arg(2)->Arg(3)->Arg(4)->Arg(16)->Arg(256);

}  // namespace
}  // namespace espalier::codec
