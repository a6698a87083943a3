#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace espalier::mpi {

// Which client goes to which rank, and when: the longest first, one at a time, to whoever is free.
// Other ranks than 0 get two more than they have threads while there are more clients than threads,
// so that they have something to go on with while updates are on their way; at the end nobody takes
// work ahead that another could begin at once. Longest first ends at most a third later than the
// best order of all (Graham 1969).
class Dispatch {
 public:
  // `size`: how long a client takes, in any unit. `threads`: by rank.
  Dispatch(std::vector<uint64_t> clients, const std::function<uint64_t(uint64_t)>& size,
           std::vector<size_t> threads);

  // The next client for a thread of rank 0; nothing when none is left. Any thread.
  std::optional<uint64_t> next();
  // The next client for another rank; nothing when it has enough for now. One thread, as below.
  std::optional<uint64_t> next_for(size_t rank);
  // A client of that rank has answered.
  void answered(size_t rank) { --outstanding_[rank]; }
  // Nobody begins another client. Any thread.
  void stop() { taken_ = order_.size(); }
  // Whether no client is left and no other rank has one.
  bool over() const;

 private:
  size_t left() const;

  std::vector<uint64_t> order_;
  std::vector<size_t> threads_, outstanding_;  // by rank
  size_t all_threads_ = 0;
  std::atomic<size_t> taken_ = 0;
};

}  // namespace espalier::mpi
