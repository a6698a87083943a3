#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace espalier::round {

// Tells clients that fail now and then, without whom a round goes on, from failures that are no
// accident: clients that fail whenever they are asked, and a reason that strikes at least half of
// the clients round after round. A run that went on without them would train on other data than its
// user thinks. Reasons are the same when they differ in numbers only. A client that gives no answer
// may be back in the next round and counts for neither. Memory: the clients that have failed when
// they were asked last. A resumed run begins with an empty history.
class FailureHistory {
 public:
  // The run has so many rounds: what comes in two rounds is lasting, in a run of one round at once.
  explicit FailureHistory(uint64_t num_rounds) : lasting_(num_rounds < 2 ? 1 : 2) {}

  struct Verdict {
    // "clients 0, 1 and 2 have failed in each of the last 2 rounds that they took part in: reason";
    // said once of a client.
    std::vector<std::string> notes;
    // Not empty: the run must not go on, because of this.
    std::string end;
  };
  // Of a round: who was asked, and of whom why failed.
  Verdict add(std::span<const uint64_t> asked, const std::map<uint64_t, std::string>& failures);

 private:
  struct Entry {
    uint64_t times = 0;
    std::string kind;  // the reason without its numbers
  };
  uint64_t lasting_;
  std::map<uint64_t, Entry> clients_;
  std::map<std::string, uint64_t> rounds_;  // one after the other that a kind has struck half in
};

}  // namespace espalier::round
