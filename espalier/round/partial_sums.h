#pragma once

#include "espalier/codec/codec.h"
#include "espalier/round/backend.h"
#include "espalier/strategy/round_sums.h"

namespace espalier::round {

// A part of a round's sums, made where the updates are: at a rank, or at a leaf of a tree of
// servers. Its accumulators are added to the round's (RoundTraffic::sum) as integers, which gives
// the bits that one accumulator of all updates would have.
class PartialSums {
 public:
  explicit PartialSums(Summing summing)
      : summing_(std::move(summing)), sums_(summing_.max_updates, summing_.max_weight) {}

  // Decodes, checks and adds an update of the whole model, of `layout`, from a client that has
  // stated `held` samples. Returns what RoundTraffic::summed() takes: all of it but the values.
  // Throws Error, with nothing added, when it is no good: delivered() then finds the same fault.
  // Any thread.
  wire::Update add(uint64_t client, double held,
                   const std::shared_ptr<const ParameterLayout>& layout,
                   const wire::EncodedMessage& update, const codec::Codec& uplink);
  const std::vector<std::string>& payloads() const { return summing_.payloads; }
  ExactAccumulator& sum(const std::string& payload, const ParameterLayout& layout) {
    return sums_.accumulator(payload, layout);
  }

 private:
  Summing summing_;
  strategy::RoundSums sums_;
};

}  // namespace espalier::round
