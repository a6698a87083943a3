#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "espalier/round/backend.h"

namespace espalier::run {

// Who took part in the exchanges of a served run, and whose answers counted, by its events.jsonl.
struct Replay {
  struct Part {
    std::vector<uint64_t> clients;
    std::set<uint64_t> missing, unasked;  // unasked: those of them to whom no task was sent
  };
  std::map<std::pair<uint32_t, uint32_t>, Part> exchanges;  // by round and number
};
// The last attempt of each exchange that counted. Throws Error that names the line when the file is
// no such log; lines that are no JSON, as crashes leave them, are passed over.
Replay read_replay(const std::filesystem::path& events);

// Lets a simulation do what a served run did: the same clients, and the same ones missing. With the
// same configuration and data it ends in the same model. Traffic is the same too but for answers
// that were no good and failures that clients reported.
class ReplayBackend final : public round::Backend {
 public:
  // `inner` outlives this.
  ReplayBackend(round::Backend& inner, Replay replay)
      : inner_(inner), replay_(std::move(replay)), next_(replay_.exchanges.begin()) {}

  uint64_t num_clients() const override { return inner_.num_clients(); }
  uint64_t num_samples(uint64_t client) const override { return inner_.num_samples(client); }
  // Throws Error when the log ends here.
  std::vector<uint64_t> select(Key key, std::span<const uint64_t> eligible,
                               uint64_t count) override;
  void run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) override;
  void make_durable() override { inner_.make_durable(); }
  void commit(uint32_t round, const std::map<uint64_t, uint32_t>& versions) override {
    inner_.commit(round, versions);
  }
  void release_memory() override { inner_.release_memory(); }
  // A resumed run goes on with the round after this one.
  void skip_through(uint32_t round) { next_ = replay_.exchanges.lower_bound({round + 1, 0}); }

 private:
  round::Backend& inner_;
  const Replay replay_;
  std::map<std::pair<uint32_t, uint32_t>, Replay::Part>::const_iterator next_;
};

}  // namespace espalier::run
