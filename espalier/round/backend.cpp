#include "espalier/round/backend.h"

#include <algorithm>

namespace espalier::round {

std::vector<uint64_t> Backend::select(Key key, std::span<const uint64_t> eligible, uint64_t count) {
  const uint64_t all = eligible.empty() ? num_clients() : eligible.size();
  std::vector<uint64_t> clients = sample_without_replacement(key, all, std::min(count, all));
  if (!eligible.empty()) {
    for (uint64_t& client : clients) client = eligible[client];
  }
  return clients;
}

}  // namespace espalier::round
