#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace espalier::serve {

// Work that gRPC's threads must not do themselves: encoding, hashing, decoding, adding. Jobs start
// in the order in which they came and catch what they throw.
class JobQueue {
 public:
  explicit JobQueue(size_t num_threads);
  // Runs what is queued, then ends.
  ~JobQueue();
  JobQueue(const JobQueue&) = delete;
  JobQueue& operator=(const JobQueue&) = delete;

  // Any thread.
  void post(std::function<void()> job);

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace espalier::serve
