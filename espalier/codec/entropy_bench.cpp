#include <benchmark/benchmark.h>

#include "espalier/base/random.h"
#include "espalier/codec/entropy.h"
#include "espalier/codec/gauss_tables.h"

// Symbols per second of the rANS coder on 2-bit Gaussian symbols in 4 contexts.
namespace espalier::codec {
namespace {

struct Workload {
  explicit Workload(size_t count) : model(weights(), 12) {
    Stream stream{Key(1)};
    for (size_t i = 0; i < count; ++i) {
      contexts.push_back(static_cast<uint8_t>(stream.u32() & 3));
      const double x = std::clamp(stream.normal(), -5.0, 5.0);
      joint.push_back(
          static_cast<uint16_t>(contexts.back() << 8 | static_cast<int>(x / 1.08 + 6.5)));
    }
  }
  static std::vector<std::vector<double>> weights() {
    std::vector<double> w;
    for (int k = -6; k <= 6; ++k) w.push_back(normal_cell((k - 0.5) * 1.08, (k + 0.5) * 1.08));
    return {w, w, w, w};
  }
  EntropyModel model;
  std::vector<uint8_t> contexts;
  std::vector<uint16_t> joint;
};

Bytes encode(const Workload& w) {
  Bytes out;
  RansEncoder encoder(w.model, w.joint.size());
  for (size_t end = w.joint.size(); end > 0; end -= 4096) {
    encoder.push_front(std::span(w.joint).subspan(end - 4096, 4096));
  }
  std::move(encoder).finish(out);
  return out;
}

void rans_encode(benchmark::State& state) {
  const Workload w(static_cast<size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(encode(w));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void rans_decode(benchmark::State& state) {
  const Workload w(static_cast<size_t>(state.range(0)));
  const Bytes bytes = encode(w);
  std::vector<uint8_t> symbols(w.joint.size());
  for (auto _ : state) {
    ByteReader reader(bytes, "bench");
    RansDecoder decoder(w.model, symbols.size(), reader);
    decoder.next(w.contexts, symbols);
    decoder.finish();
    benchmark::DoNotOptimize(symbols.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void rans_decode_trellis(benchmark::State& state) {
  const Workload w(static_cast<size_t>(state.range(0)));
  std::vector<uint16_t> joint(w.joint.size());
  const std::vector<uint8_t> transition = {0, 2, 2, 0, 1, 3, 3, 1};
  std::array<uint8_t, 32> contexts{};
  for (size_t i = 0; i < joint.size(); ++i) {
    const auto symbol = static_cast<uint8_t>(w.joint[i]);
    joint[i] = static_cast<uint16_t>(contexts[i % 32] << 8 | symbol);
    contexts[i % 32] = transition[2u * contexts[i % 32] + (symbol & 1u)];
  }
  Bytes bytes;
  RansEncoder encoder(w.model, joint.size());
  encoder.push_front(joint);
  std::move(encoder).finish(bytes);
  for (auto _ : state) {
    ByteReader reader(bytes, "bench");
    RansDecoder decoder(w.model, joint.size(), reader);
    contexts.fill(0);
    decoder.next_trellis(transition, contexts, joint);
    decoder.finish();
    benchmark::DoNotOptimize(joint.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

BENCHMARK(rans_encode)->Arg(1 << 12)->Arg(1 << 15)->Arg(1 << 20);
BENCHMARK(rans_decode)->Arg(1 << 12)->Arg(1 << 15)->Arg(1 << 20);
BENCHMARK(rans_decode_trellis)->Arg(1 << 12)->Arg(1 << 20);

}  // namespace
}  // namespace espalier::codec
