#include "espalier/serve/waiting_room.h"

#include <utility>

namespace espalier::serve {

uint64_t WaitingRoom::enter(uint64_t client, Answer answer, Clock::time_point until) {
  const uint64_t ticket = next_++;
  waiters_[ticket] = {client, std::move(answer), until};
  tickets_[client].insert(ticket);
  ends_.insert({until, ticket});
  return ticket;
}

std::optional<WaitingRoom::Waiter> WaitingRoom::leave(uint64_t ticket) {
  const auto found = waiters_.find(ticket);
  if (found == waiters_.end()) return std::nullopt;
  Waiter waiter = std::move(found->second);
  waiters_.erase(found);
  ends_.erase({waiter.until, ticket});
  const auto own = tickets_.find(waiter.client);
  own->second.erase(ticket);
  if (own->second.empty()) tickets_.erase(own);
  return waiter;
}

std::vector<WaitingRoom::Waiter> WaitingRoom::leave_overdue(Clock::time_point now) {
  std::vector<Waiter> gone;
  while (!ends_.empty() && ends_.begin()->first <= now)
    gone.push_back(*leave(ends_.begin()->second));
  return gone;
}

void WaitingRoom::end(uint64_t client, Clock::time_point now) {
  for (const uint64_t ticket : tickets_of(client)) {
    Waiter& waiter = waiters_.at(ticket);
    ends_.erase({waiter.until, ticket});
    waiter.until = now;
    ends_.insert({now, ticket});
  }
}

void WaitingRoom::end_all(Clock::time_point now) {
  ends_.clear();
  for (auto& [ticket, waiter] : waiters_) {
    waiter.until = now;
    ends_.insert({now, ticket});
  }
}

std::vector<uint64_t> WaitingRoom::tickets_of(uint64_t client) const {
  const auto found = tickets_.find(client);
  if (found == tickets_.end()) return {};
  return {found->second.begin(), found->second.end()};
}

std::vector<uint64_t> WaitingRoom::clients() const {
  std::vector<uint64_t> out;
  for (const auto& [client, tickets] : tickets_) out.push_back(client);
  return out;
}

std::optional<WaitingRoom::Clock::time_point> WaitingRoom::next_end() const {
  return ends_.empty() ? std::nullopt : std::optional(ends_.begin()->first);
}

}  // namespace espalier::serve
