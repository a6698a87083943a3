#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "espalier/rpc/messages.h"

namespace espalier::serve {

// Clients that wait for something to do, each with what answers it and until when it waits. One
// client may wait more than once: its connection broke, and it asked again. Not thread-safe.
class WaitingRoom {
 public:
  using Clock = std::chrono::steady_clock;
  using Answer = std::function<void(rpc::AwaitReply)>;
  struct Waiter {
    uint64_t client = 0;
    Answer answer;
    Clock::time_point until;
  };

  // Returns its ticket, which no other waiter ever has.
  uint64_t enter(uint64_t client, Answer answer, Clock::time_point until);
  // It leaves, if it is still there.
  std::optional<Waiter> leave(uint64_t ticket);
  // Everybody whose time is over leaves.
  std::vector<Waiter> leave_overdue(Clock::time_point now);
  // From now on this client's time is over, everybody's.
  void end(uint64_t client, Clock::time_point now);
  void end_all(Clock::time_point now);

  bool has(uint64_t client) const { return tickets_.contains(client); }
  // Ascending; empty when the client does not wait.
  std::vector<uint64_t> tickets_of(uint64_t client) const;
  // Those that wait, ascending.
  std::vector<uint64_t> clients() const;
  // When the first one's time is over.
  std::optional<Clock::time_point> next_end() const;

 private:
  uint64_t next_ = 1;
  std::map<uint64_t, Waiter> waiters_;                     // by ticket
  std::map<uint64_t, std::set<uint64_t>> tickets_;         // by client
  std::set<std::pair<Clock::time_point, uint64_t>> ends_;  // with the ticket
};

}  // namespace espalier::serve
