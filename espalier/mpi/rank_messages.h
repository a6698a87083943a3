#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "espalier/base/bytes.h"
#include "espalier/train/trainer.h"

// What ranks say to each other (ranks.h): one build on both sides, so only lengths are checked.
namespace espalier::mpi {

// The first byte of a message.
enum class Say : uint8_t {
  // Rank 0 to the others.
  kSetup,   // text
  kTask,    // u64 client, u8 shared, head, u32 bodies: u64 id, u8 whether it follows, the body
  kState,   // u64 client, u32 version, u8 whether there is one, the state
  kForget,  // the exchange is over
  // u64 evaluation, u64 first batch, u64 last, u32 groups: i64 units each; u64 values: float32 each
  kEvaluate,
  kOver,
  // The others to rank 0.
  kReady,        // u64 threads
  kUpdate,       // u64 client, u8 remembers: u32 round, u32 base, the state; the update's stream
  kFailed,       // u64 client, text
  kStateWanted,  // u64 client, u32 version
  kSums,         // u64 evaluation, u64 batch, the sums
  kBroken,       // text: this rank cannot go on
  kGone,         // the last thing that it says
};

inline Bytes begin(Say what) {
  Bytes out;
  ByteWriter(out).put(static_cast<uint8_t>(what));
  return out;
}
inline void put_block(Bytes& out, std::span<const uint8_t> block) {
  ByteWriter writer(out);
  writer.put(static_cast<uint64_t>(block.size()));
  writer.bytes(block);
}
inline std::span<const uint8_t> get_block(ByteReader& in) { return in.take(in.get<uint64_t>()); }
inline std::string text_of(std::span<const uint8_t> block) { return {block.begin(), block.end()}; }
inline Bytes say_text(Say what, const std::string& text) {
  Bytes out = begin(what);
  put_block(out, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  return out;
}

inline void put_sums(const train::EvalSums& sums, Bytes& out) {
  ByteWriter writer(out);
  writer.put(sums.loss);
  writer.put(sums.correct);
  writer.put(sums.count);
  writer.put(static_cast<uint32_t>(sums.classes.size()));
  for (const train::ClassCount& one : sums.classes) {
    writer.put(one.label);
    writer.put(one.count);
    writer.put(one.correct);
  }
}
inline train::EvalSums get_sums(ByteReader& in) {
  train::EvalSums sums;
  sums.loss = in.get<double>();
  sums.correct = in.get<uint64_t>();
  sums.count = in.get<uint64_t>();
  const auto classes = in.get<uint32_t>();
  for (uint32_t i = 0; i < classes; ++i) {
    const auto label = in.get<int32_t>();
    const auto count = in.get<uint64_t>(), correct = in.get<uint64_t>();
    sums.classes.push_back({label, count, correct});
  }
  return sums;
}

}  // namespace espalier::mpi
