#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "espalier/base/bytes.h"
#include "espalier/train/trainer.h"
#include "espalier/wire/task.h"

// What ranks say to each other (ranks.h): one build on both sides, so only lengths are checked.
namespace espalier::mpi {

// The first byte of a message.
enum class Say : uint8_t {
  // Rank 0 to the others.
  kSetup,      // text
  kSumming,    // u64 updates, f64 weight, u32 payloads: text each. The exchange's updates may be
               // added here
  kBody,       // u64 id, a body that tasks may name
  kBroadcast,  // u64 id, u64 bytes: the same of a body for all ranks, which is broadcast next
  kTask,       // u64 client, u8 whether its update may be added here, the head, u32 bodies: u64 id,
               // 0 when the body follows
  kState,      // u64 client, u32 version, u8 whether there is one, the state
  kForget,     // the exchange is over
  kReduce,     // u64 words of each payload's sum, which are reduced next, block by block
  // u64 evaluation, u32 groups: i64 units each; u64 values, which are broadcast next
  kEvaluate,
  kBatch,  // u64 batch, of that evaluation
  kOver,
  // The others to rank 0.
  kReady,        // u64 threads
  kUpdate,       // u64 client, u8 remembers: u32 round, u32 base, the state; the update's stream
  kSummed,       // as kUpdate, but u64 its bytes and all of it but the values: it is in the sums
  kFailed,       // u64 client, text
  kStateWanted,  // u64 client, u32 version
  kSums,         // u64 evaluation, u64 batch, the sums
  kBroken,       // text: this rank cannot go on
  kGone,         // the last thing that it says
  // The first rank of a machine to the others there.
  kData,  // text
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
inline void put_text(Bytes& out, const std::string& text) {
  put_block(out, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}
inline Bytes say_text(Say what, const std::string& text) {
  Bytes out = begin(what);
  put_text(out, text);
  return out;
}

// Sums are reduced in blocks of so many words.
inline constexpr uint64_t kBlock = uint64_t{1} << 20;

// All of an update but its payloads' values.
inline void put_update(const wire::Update& update, Bytes& out) {
  ByteWriter writer(out);
  writer.put(update.answers.round);
  writer.put(update.answers.exchange);
  writer.put(update.answers.client);
  writer.put(update.num_samples);
  const auto put_numbers = [&](const auto& numbers, auto name, auto number) {
    writer.put(static_cast<uint32_t>(numbers.size()));
    for (const auto& one : numbers) {
      put_text(out, name(one));
      writer.put(number(one));
    }
  };
  put_numbers(
      update.scalars, [](const auto& one) { return one.first; },
      [](const auto& one) { return one.second; });
  put_numbers(
      update.payloads, [](const auto& one) { return one.name; },
      [](const auto& one) { return one.weight; });
}
inline wire::Update get_update(ByteReader& in) {
  wire::Update update;
  update.answers.round = in.get<uint32_t>();
  update.answers.exchange = in.get<uint32_t>();
  update.answers.client = in.get<uint64_t>();
  update.num_samples = in.get<double>();
  for (auto left = in.get<uint32_t>(); left > 0; --left) {
    std::string name = text_of(get_block(in));
    update.scalars[std::move(name)] = in.get<double>();
  }
  for (auto left = in.get<uint32_t>(); left > 0; --left) {
    std::string name = text_of(get_block(in));
    update.payloads.push_back({std::move(name), nullptr, in.get<double>()});
  }
  return update;
}

inline void put_sums(const train::EvalSums& sums, Bytes& out) {
  ByteWriter writer(out);
  writer.put(sums.loss);
  writer.put(sums.correct);
  writer.put(sums.count);
  writer.put(sums.macs);
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
  sums.macs = in.get<uint64_t>();
  const auto classes = in.get<uint32_t>();
  for (uint32_t i = 0; i < classes; ++i) {
    const auto label = in.get<int32_t>();
    const auto count = in.get<uint64_t>(), correct = in.get<uint64_t>();
    sums.classes.push_back({label, count, correct});
  }
  return sums;
}

}  // namespace espalier::mpi
