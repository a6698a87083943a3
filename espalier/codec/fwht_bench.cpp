// The transform and the quantizer on one block in cache, and the transform over memory beside a
// plain pass over it.
#include <benchmark/benchmark.h>

#include "espalier/codec/fwht.h"
#include "espalier/codec/uniform.h"
#include "espalier/params/parameter_set.h"

namespace espalier::codec {
namespace {

constexpr size_t kBlock = 4096;
constexpr size_t kLarge = size_t{1} << 26;  // 256 MiB

void count(benchmark::State& state, size_t values) {
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(values));
}

void fwht_block(benchmark::State& state) {
  AlignedVector<float> x(kBlock, 0.0f);
  for (auto _ : state) fwht(x);
  count(state, kBlock);
}
BENCHMARK(fwht_block);

void signs_block(benchmark::State& state) {
  AlignedVector<float> x(kBlock, 1.0f);
  for (auto _ : state) flip_signs(x, Key(1), 1.0f, x);
  count(state, kBlock);
}
BENCHMARK(signs_block);

void quantize_block(benchmark::State& state) {
  AlignedVector<float> x(kBlock);
  Stream stream{Key(1)};
  for (float& value : x) value = static_cast<float>(stream.normal());
  const auto bits = static_cast<int>(state.range(0));
  std::vector<uint8_t> out(packed_bytes(kBlock, bits));
  const Range range = range_of(x);
  for (auto _ : state) quantize_uniform(x, range, bits, Key(1), out.data());
  count(state, kBlock);
}
BENCHMARK(quantize_block)->Arg(1)->Arg(4)->Arg(5)->Arg(16);

void dequantize_block(benchmark::State& state) {
  AlignedVector<float> x(kBlock);
  const auto bits = static_cast<int>(state.range(0));
  const std::vector<uint8_t> in(packed_bytes(kBlock, bits), 0x5a);
  for (auto _ : state) dequantize_uniform(in.data(), {-1, 1}, bits, x);
  count(state, kBlock);
}
BENCHMARK(dequantize_block)->Arg(4)->Arg(16);

void memory_pass(benchmark::State& state) {
  AlignedVector<float> x(kLarge, 1.0f);
  for (auto _ : state) scale(x, 0.999f);
  count(state, kLarge);
}
BENCHMARK(memory_pass);

void fwht_memory(benchmark::State& state) {
  AlignedVector<float> x(kLarge, 0.0f);
  for (auto _ : state) fwht_blocks(x, kBlock);
  count(state, kLarge);
}
BENCHMARK(fwht_memory);

}  // namespace
}  // namespace espalier::codec
