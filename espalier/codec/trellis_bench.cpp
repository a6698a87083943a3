#include "espalier/codec/bench_coding.h"
#include "espalier/codec/trellis.h"

// Coordinates per second of the trellis code on Gaussian coordinates; argument: bits. And the time
// to make one.
namespace espalier::codec {
namespace {

constexpr int64_t kCount = 1 << 20;

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
