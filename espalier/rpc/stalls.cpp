#include "espalier/rpc/stalls.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace espalier::rpc {

Stalls::Stalls(double seconds)
    : limit_(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds))) {
  if (seconds > 0) thread_ = std::thread([this] { look(); });
}

Stalls::~Stalls() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

uint64_t Stalls::watch(std::function<void()> end) {
  if (limit_.count() <= 0) return 0;
  const std::lock_guard lock(mutex_);
  streams_[next_] = {std::move(end), Clock::now()};
  return next_++;
}

void Stalls::moved(uint64_t stream) {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(stream);
  if (found != streams_.end()) found->second.last = Clock::now();
}

void Stalls::forget(uint64_t stream) {
  const std::lock_guard lock(mutex_);
  streams_.erase(stream);
}

void Stalls::look() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    // Nobody minds whether it is noticed a little later.
    changed_.wait_for(lock, std::max<Clock::duration>(limit_ / 8, std::chrono::milliseconds(10)));
    const auto now = Clock::now();
    std::vector<uint64_t> standing;
    for (const auto& [number, stream] : streams_)
      if (now - stream.last >= limit_) standing.push_back(number);
    // With the mutex held: whoever forgets a stream waits until this is done.
    for (const uint64_t number : standing) {
      const auto found = streams_.extract(number);
      if (!found.empty()) found.mapped().end();
    }
  }
}

}  // namespace espalier::rpc
