#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "espalier/base/bytes.h"
#include "espalier/params/parameter_set.h"

namespace espalier::client {

// What a client remembers between rounds: its half of SCAFFOLD, residuals of error feedback, kept
// local statistics, the mask it works under.
struct ClientState {
  std::map<std::string, ParameterSet> sets;
  std::map<std::string, Bytes> blobs;
  bool empty() const { return sets.empty() && blobs.empty(); }
};

// Where clients keep what they remember between rounds. Versions are round numbers: a task names
// the version it builds on, and that version is kept until a later one is committed, so that a
// round repeated after a crash starts from the same state. When versions become durable and when
// old ones may go is between the store and its backend. Thread-safe.
class ClientStateStore {
 public:
  virtual ~ClientStateStore() = default;
  // The state that `client` wrote in round `version` ≥ 1. An Error when it is gone.
  virtual std::shared_ptr<const ClientState> get(uint64_t client, uint32_t version) = 0;
  // Keeps `state` as version `round`; `base` (0: none) stays until commit.
  virtual void put(uint64_t client, uint32_t round, uint32_t base, ClientState state) = 0;
};

// A state as bytes, with its own layouts and a checksum, and back; Error on anything malformed.
Bytes encode_state(const ClientState& state);
ClientState decode_state(std::span<const uint8_t> bytes, std::string_view where);

}  // namespace espalier::client
