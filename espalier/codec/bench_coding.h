#pragma once

#include <benchmark/benchmark.h>

#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/codec/test_inputs.h"

// For the benches of codes: coordinates per second of coding `count` Gaussian ones.
namespace espalier::codec {

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

}  // namespace espalier::codec
