#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "espalier/params/parameter_set.h"
#include "espalier/round/wire.h"
#include "espalier/train/trainer.h"

namespace espalier::round {

// What a backend asks and tells the round while it carries tasks. All functions may be called from
// any thread.
class RoundTraffic {
 public:
  virtual ~RoundTraffic() = default;
  virtual EncodedMessage task(uint64_t client) = 0;
  // Exactly one of these per client. delivered() decodes, checks and accumulates; a faulty update
  // becomes a failure.
  virtual void delivered(uint64_t client, const EncodedMessage& update) = 0;
  virtual void failed(uint64_t client, const std::string& reason) = 0;
};

// Carries tasks to clients and their updates back: threads in this process, MPI ranks, or a
// network.
class Backend {
 public:
  virtual ~Backend() = default;
  // Number of clients that exist, and of samples that a client holds (bounds the weights of the
  // round).
  virtual uint64_t num_clients() const = 0;
  virtual uint64_t num_samples(uint64_t client) const = 0;
  // Returns when every client of the round has delivered or failed.
  virtual void run(std::span<const uint64_t> clients, RoundTraffic& traffic) = 0;
  // Loss and accuracy of the model on the test samples; the sums are added in a fixed order.
  virtual train::EvalSums evaluate(const ParameterSet& model) = 0;
};

}  // namespace espalier::round
