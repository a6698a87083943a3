#include "espalier/round/backend.h"

#include <algorithm>

namespace espalier::round {

Receipt RoundTraffic::summed(uint64_t client, const wire::Update&, uint64_t) {
  fail("round/exchange", "the update of client ", client, " was not to be added elsewhere");
}
ExactAccumulator& RoundTraffic::sum(const std::string& payload) {
  fail("round/exchange", "'", payload, "' has no sums");
}

std::vector<uint64_t> Backend::select(Key key, std::span<const uint64_t> eligible, uint64_t count) {
  const uint64_t all = eligible.empty() ? num_clients() : eligible.size();
  std::vector<uint64_t> clients = sample_without_replacement(key, all, std::min(count, all));
  if (!eligible.empty()) {
    for (uint64_t& client : clients) client = eligible[client];
  }
  return clients;
}

}  // namespace espalier::round
