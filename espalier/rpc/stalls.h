#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace espalier::rpc {

// Ends streams that do not move: a client whose line is dead, or one that holds a place by sending
// a byte now and then. Any thread.
class Stalls {
 public:
  // A stream has to move within any `seconds`; 0: none is ended.
  explicit Stalls(double seconds);
  ~Stalls();
  Stalls(const Stalls&) = delete;
  Stalls& operator=(const Stalls&) = delete;

  // From now on `end` may be called, once, by another thread, until forget() has returned; it may
  // forget the stream itself. Returns the stream's number.
  uint64_t watch(std::function<void()> end);
  void moved(uint64_t stream);
  void forget(uint64_t stream);

 private:
  using Clock = std::chrono::steady_clock;
  struct Stream {
    std::function<void()> end;
    Clock::time_point last;
  };
  void look();

  const Clock::duration limit_;
  std::recursive_mutex mutex_;  // `end` may come back here
  std::condition_variable_any changed_;
  std::map<uint64_t, Stream> streams_;
  uint64_t next_ = 1;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace espalier::rpc
