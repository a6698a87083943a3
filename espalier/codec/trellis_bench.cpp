#include <benchmark/benchmark.h>

#include <vector>

#include "espalier/base/random.h"
#include "espalier/codec/trellis.h"

// Coordinates per second of the trellis code on Gaussian coordinates; argument: bits. And the time
// to make one.
namespace espalier::codec {
namespace {

constexpr size_t kCount = 1 << 20;

std::vector<float> gaussian() {
  Stream stream{Key(1)};
  std::vector<float> x(kCount);
  for (float& v : x) v = static_cast<float>(stream.normal());
  return x;
}

void trellis_encode(benchmark::State& state) {
  const TrellisCode code(static_cast<double>(state.range(0)));
  const auto x = gaussian();
  Bytes bytes;
  for (auto _ : state) {
    bytes.clear();
    code.encode(x, 4096, bytes);
    benchmark::DoNotOptimize(bytes.data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kCount));
}

void trellis_decode(benchmark::State& state) {
  const TrellisCode code(static_cast<double>(state.range(0)));
  auto x = gaussian();
  Bytes bytes;
  code.encode(x, 4096, bytes);
  for (auto _ : state) {
    code.decode(bytes, 4096, x);
    benchmark::DoNotOptimize(x.data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kCount));
}

void trellis_construct(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(TrellisCode(static_cast<double>(state.range(0))));
}

BENCHMARK(trellis_encode)->Arg(1)->Arg(2)->Arg(4)->Arg(7);
BENCHMARK(trellis_decode)->Arg(1)->Arg(2)->Arg(4)->Arg(7);
BENCHMARK(trellis_construct)->Arg(1)->Arg(4)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace espalier::codec
