#include <cmath>

#include "espalier/codec/bench_coding.h"
#include "espalier/codec/eden.h"

// Coordinates per second of EDEN on Gaussian coordinates; argument: levels.
namespace espalier::codec {
namespace {

constexpr int64_t kCount = 1 << 20;

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

}  // namespace
}  // namespace espalier::codec
