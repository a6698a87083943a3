#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/params/exact_sum.h"
#include "espalier/wire/message.h"
#include "espalier/wire/task.h"

// The seam between a round and whatever carries its tasks: threads of this process, MPI ranks, a
// network.
namespace espalier::round {

// A round that came to nothing: all of its clients failed, too many of them in one round after the
// other, or fewer answered than the backend wants. The state is as before the round.
class RoundFailed : public Error {
 public:
  using Error::Error;
};

// What became of a delivery.
enum class Receipt : uint8_t {
  kCounted,  // the update is in the round's sums
  kFaulty,   // it did not decode or was nonsense: the client has failed
  kRefused,  // nobody waited for it: a second, late or unsolicited answer. Nothing has changed
};

// Which exchange of a run: several may belong to a round.
struct ExchangeId {
  uint32_t round = 0, number = 0;
  wire::TaskKind kind = wire::TaskKind::kTrain;
  friend bool operator==(const ExchangeId&, const ExchangeId&) = default;
};

// How updates of an exchange may be added where they are made (partial_sums.h): the bounds of the
// sums, and what each update consists of.
struct Summing {
  uint64_t max_updates = 0;
  double max_weight = 0;
  std::vector<std::string> payloads;  // each with the whole model's layout
};

// What a backend asks and tells the round while it carries tasks. All functions may be called from
// any thread.
class RoundTraffic {
 public:
  virtual ~RoundTraffic() = default;
  virtual ExchangeId id() const = 0;
  // The task of a client of this exchange. May be asked again, after a broken connection for
  // instance: it gives the same bytes, and they are counted once. Throws Error when there is no
  // task for the client; report it with failed().
  virtual wire::EncodedMessage task(uint64_t client) = 0;
  // One of these per client. delivered() decodes, checks and accumulates; whatever comes after it
  // is refused and counted. StorageError when ours, not the client's, storage failed: the run ends.
  virtual Receipt delivered(uint64_t client, const wire::EncodedMessage& update) = 0;
  virtual void failed(uint64_t client, const std::string& reason) = 0;

  // ---- for backends that add updates elsewhere
  // Nothing: updates are wanted one by one.
  virtual std::optional<Summing> summing() const { return std::nullopt; }
  // Whether this client's update may be added elsewhere where there is a summing(); its task was
  // fetched.
  virtual bool summable(uint64_t client) const {
    static_cast<void>(client);
    return false;
  }
  // In place of delivered(): the values are in a part of the sums. `update` is what
  // PartialSums::add() returned, `size` the bytes of the message.
  virtual Receipt summed(uint64_t client, const wire::Update& update, uint64_t size);
  // Where the parts of a payload are added to, before run() returns and by one thread.
  virtual ExactAccumulator& sum(const std::string& payload);
};

// Carries tasks to clients and their updates back, and keeps what clients remember, or lets them
// keep it. Evaluation is not its business (train/evaluator.h). Called from the round's thread.
class Backend {
 public:
  virtual ~Backend() = default;
  // Number of clients that exist, and of samples that a client has stated when it joined. Neither
  // changes during a round; the statement bounds the client's weight, and an update that claims
  // another number is refused.
  virtual uint64_t num_clients() const = 0;
  virtual uint64_t num_samples(uint64_t client) const = 0;

  // Who takes part in the next exchange: `count` clients of `eligible` (ascending; empty: of all),
  // drawn without replacement by `key`. A backend whose clients come and go draws among those that
  // are there, and may take more than it needs. Throws RoundFailed when nobody is there.
  virtual std::vector<uint64_t> select(Key key, std::span<const uint64_t> eligible, uint64_t count);

  // Those of `eligible` (ascending, not empty) that are there now.
  virtual std::vector<uint64_t> present(std::span<const uint64_t> eligible) {
    return {eligible.begin(), eligible.end()};
  }

  // Returns when every client has delivered or failed; clients that have done neither by then have
  // failed. `traffic` is not to be touched after that: whatever comes later is of another exchange.
  // Throws RoundFailed when too few have answered for it to count; the round may be asked again.
  virtual void run(std::span<const uint64_t> clients, RoundTraffic& traffic) = 0;

  // What clients remember belongs to them; the round names versions, which are rounds. A checkpoint
  // is about to be written: everything that clients of this process have kept must survive a crash
  // from here on. Devices see to it before they answer.
  virtual void make_durable() {}
  // The checkpoint of this round is written, which names these versions (client → round), those of
  // clients that have not changed since the last one left out: other versions of these clients, and
  // what is kept of this round and those before it, may go.
  virtual void commit(uint32_t round, const std::map<uint64_t, uint32_t>& versions) {
    static_cast<void>(round);
    static_cast<void>(versions);
  }

  // The server is about to train and needs memory: buffers that can be made again may go.
  virtual void release_memory() {}
};

}  // namespace espalier::round
