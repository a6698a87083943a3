#include "espalier/base/thread_pool.h"

#include <sched.h>

#include <system_error>
#include <utility>

#include "espalier/base/error.h"

namespace espalier {

ThreadPool::ThreadPool(size_t num_threads, std::function<void(size_t)> start)
    : start_(std::move(start)) {
  ESPALIER_CHECK(num_threads > 0);
  threads_.reserve(num_threads);
  for (size_t worker = 0; worker < num_threads; ++worker) {
    try {
      threads_.emplace_back([this, worker] { loop(worker); });
    } catch (const std::system_error& error) {
      stop();
      fail("base/thread_pool", "cannot start thread ", worker + 1, " of ", num_threads, ": ",
           error.what(), "; use fewer threads");
    }
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(size_t count, const std::function<void(size_t, size_t)>& work) {
  if (count == 0) return;
  std::unique_lock lock(mutex_);
  ESPALIER_CHECK(work_ == nullptr, "ThreadPool::run is not reentrant");
  work_ = &work;
  next_ = 0;
  count_ = count;
  error_ = nullptr;
  wake_.notify_all();
  done_.wait(lock, [this] { return next_ >= count_ && running_ == 0; });
  work_ = nullptr;
  count_ = 0;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::loop(size_t worker) {
  std::exception_ptr start_error;
  if (start_) {
    try {
      start_(worker);
    } catch (...) {
      start_error = std::current_exception();
    }
  }
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || (work_ != nullptr && next_ < count_); });
    if (stopping_) return;
    const size_t index = next_++;
    ++running_;
    const auto* work = work_;
    lock.unlock();
    std::exception_ptr error = start_error;
    if (!error) {
      try {
        (*work)(index, worker);
      } catch (...) {
        error = std::current_exception();
      }
    }
    lock.lock();
    if (error && !error_) {
      error_ = error;
      next_ = count_;  // What has not started need not.
    }
    if (--running_ == 0 && next_ >= count_) done_.notify_all();
  }
}

size_t available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int count = CPU_COUNT(&set);
    if (count > 0) return static_cast<size_t>(count);
  }
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? count : 1;
}

}  // namespace espalier
