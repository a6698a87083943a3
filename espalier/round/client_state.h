#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "espalier/base/bytes.h"
#include "espalier/strategy/task.h"

namespace espalier::round {

// Where clients keep what they remember between rounds. Versions are round numbers: a task names
// the version it builds on, and that version is kept until a later one is committed, so that a
// round repeated after a crash starts from the same state. Thread-safe.
class ClientStateStore {
 public:
  virtual ~ClientStateStore() = default;
  // The state that `client` wrote in round `version` ≥ 1. An Error when it is gone.
  virtual std::shared_ptr<const strategy::ClientState> get(uint64_t client, uint32_t version) = 0;
  // Keeps `state` as version `round`; `base` (0: none) stays until commit.
  virtual void put(uint64_t client, uint32_t round, uint32_t base, strategy::ClientState state) = 0;
  // Called before the checkpoint of a round is written: everything put so far must survive a crash
  // from here on.
  virtual void make_durable() = 0;
  // The checkpoint that names `version` for `client` is written: other versions of that client may
  // go.
  virtual void commit(uint64_t client, uint32_t version) = 0;
};

// A state as bytes, with its own layouts and a checksum, and back; Error on anything malformed.
Bytes encode_state(const strategy::ClientState& state);
strategy::ClientState decode_state(std::span<const uint8_t> bytes, std::string_view where);

}  // namespace espalier::round
