// The loops over values beside a plain copy; the mask coder, in bits per second and per value; the
// choice of what is pruned.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstring>

#include "espalier/base/random.h"
#include "espalier/prune/bits.h"
#include "espalier/prune/criteria.h"
#include "espalier/prune/mask.h"

namespace espalier::prune {
namespace {

constexpr int64_t kRows = 2048, kColumns = 2048;  // 16 MiB of values

std::shared_ptr<const ParameterLayout> bench_layout() {
  return std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{.name = "w", .shape = {kRows, kColumns}}});
}

// state.range(0): per cent kept, independently.
Mask bench_mask(const benchmark::State& state) {
  const auto layout = bench_layout();
  Stream stream(Key(1));
  const double keep = static_cast<double>(state.range(0)) / 100;
  std::vector<uint64_t> words(num_words(static_cast<size_t>(layout->size())), 0);
  for (size_t i = 0; i < static_cast<size_t>(layout->size()); ++i)
    words[i / 64] |= uint64_t{stream.uniform() < keep ? 1u : 0u} << (i % 64);
  return Mask(layout, std::move(words));
}

ParameterSet bench_values(const Mask& mask) {
  ParameterSet values(mask.layout());
  Stream stream(Key(2));
  for (float& value : values.values()) value = stream.uniform_float();
  return values;
}

// Bytes of the full values per second, whatever is kept.
void count(benchmark::State& state) {
  state.SetBytesProcessed(state.iterations() * 4 * kRows * kColumns);
}

void copy(benchmark::State& state) {
  const ParameterSet from(bench_layout());
  ParameterSet to(bench_layout());
  for (auto _ : state) {
    std::memcpy(to.values().data(), from.values().data(), 4 * from.size());
    benchmark::ClobberMemory();
  }
  count(state);
}
BENCHMARK(copy);

void apply(benchmark::State& state) {
  const Mask mask = bench_mask(state);
  ParameterSet values = bench_values(mask);
  for (auto _ : state) mask.apply(values.values());
  count(state);
}
BENCHMARK(apply)->Arg(30)->Arg(50)->Arg(70)->Arg(100);

void compact(benchmark::State& state) {
  const Mask mask = bench_mask(state);
  const ParameterSet values = bench_values(mask);
  ParameterSet out;
  for (auto _ : state) mask.compact(values, out);
  count(state);
}
BENCHMARK(compact)->Arg(30)->Arg(50)->Arg(70)->Arg(100);

void expand(benchmark::State& state) {
  const Mask mask = bench_mask(state);
  const ParameterSet small = mask.compact(bench_values(mask));
  ParameterSet out;
  for (auto _ : state) mask.expand(small, out);
  count(state);
}
BENCHMARK(expand)->Arg(30)->Arg(50)->Arg(70)->Arg(100);

void support(benchmark::State& state) {
  const ParameterSet values = bench_values(bench_mask(state));
  for (auto _ : state) benchmark::DoNotOptimize(Mask::support(values).kept());
  count(state);
}
BENCHMARK(support)->Arg(50);

void encode(benchmark::State& state) {
  const Mask mask = bench_mask(state);
  Bytes bytes;
  for (auto _ : state) {
    bytes.clear();
    encode_mask(mask, bytes);
  }
  const double values = kRows * kColumns, p = static_cast<double>(mask.kept()) / values;
  state.SetItemsProcessed(state.iterations() * kRows * kColumns);
  state.counters["bits_per_value"] = 8 * static_cast<double>(bytes.size()) / values;
  state.counters["entropy"] = -p * std::log2(p) - (1 - p) * std::log2(1 - p);
}
BENCHMARK(encode)->Arg(30)->Arg(50)->Arg(90);

void decode(benchmark::State& state) {
  const Mask mask = bench_mask(state);
  Bytes bytes;
  encode_mask(mask, bytes);
  for (auto _ : state) benchmark::DoNotOptimize(decode_mask(bytes, mask.layout(), "bench").kept());
  state.SetItemsProcessed(state.iterations() * kRows * kColumns);
}
BENCHMARK(decode)->Arg(30)->Arg(50)->Arg(90);

void choose(benchmark::State& state) {
  const ParameterSet scores = bench_values(Mask::all(bench_layout()));
  for (auto _ : state) benchmark::DoNotOptimize(choose_mask(scores, {.fraction = 0.3}).kept());
  state.SetItemsProcessed(state.iterations() * kRows * kColumns);
}
BENCHMARK(choose);

// state.range(0): per cent that are zeroed.
void zero(benchmark::State& state) {
  ParameterSet values = bench_values(Mask::all(bench_layout()));
  const double fraction = static_cast<double>(state.range(0)) / 100;
  uint64_t step = 0;
  for (auto _ : state)
    zero_random(values.values(), values.layout(), fraction, true, Key(3).child(++step));
  state.SetItemsProcessed(state.iterations() * kRows * kColumns);
}
BENCHMARK(zero)->Arg(1)->Arg(45)->Arg(90);

}  // namespace
}  // namespace espalier::prune
