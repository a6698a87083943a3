#include "espalier/mpi/dispatch.h"

#include <algorithm>
#include <numeric>

namespace espalier::mpi {

namespace {
constexpr size_t kAhead = 2;
}  // namespace

Dispatch::Dispatch(std::vector<uint64_t> clients, const std::function<uint64_t(uint64_t)>& size,
                   std::vector<size_t> threads)
    : order_(std::move(clients)),
      threads_(std::move(threads)),
      outstanding_(threads_.size(), 0),
      all_threads_(std::accumulate(threads_.begin(), threads_.end(), size_t{0})) {
  std::stable_sort(order_.begin(), order_.end(),
                   [&](uint64_t a, uint64_t b) { return size(a) > size(b); });
}

std::optional<uint64_t> Dispatch::next() {
  const size_t at = taken_.fetch_add(1);
  if (at >= order_.size()) return std::nullopt;
  return order_[at];
}

std::optional<uint64_t> Dispatch::next_for(size_t rank) {
  const size_t ahead = left() > all_threads_ ? kAhead : 0;
  if (outstanding_[rank] >= threads_[rank] + ahead) return std::nullopt;
  const auto client = next();
  if (client) ++outstanding_[rank];
  return client;
}

size_t Dispatch::left() const {
  const size_t begun = taken_;
  return begun >= order_.size() ? 0 : order_.size() - begun;
}

bool Dispatch::over() const {
  return left() == 0 && std::ranges::all_of(outstanding_, [](size_t count) { return count == 0; });
}

}  // namespace espalier::mpi
