#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace espalier {

// A fixed set of threads that run indexed work. The caller's thread does not take part, so a
// worker's thread-local state (a model replica, BLAS settings) stays with it. Results must not
// depend on which worker runs what.
class ThreadPool {
 public:
  // `start` runs once in every worker before any work, with the worker's number.
  explicit ThreadPool(size_t num_threads, std::function<void(size_t worker)> start = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t size() const { return threads_.size(); }

  // Runs work(index, worker) for every index of [0, count), each once, in increasing order of
  // start; returns when all are done. The first exception is rethrown here after the others have
  // finished. One call at a time.
  void run(size_t count, const std::function<void(size_t index, size_t worker)>& work);

 private:
  void loop(size_t worker);
  void stop();

  std::function<void(size_t)> start_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(size_t, size_t)>* work_ = nullptr;
  size_t next_ = 0, count_ = 0, running_ = 0;
  bool stopping_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

// Number of processors this process may run on (its affinity mask), at least 1.
size_t available_processors();

}  // namespace espalier
