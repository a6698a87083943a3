#include "espalier/join/watchers.h"

#include <chrono>

#include "espalier/base/error.h"

namespace espalier::join {

Heartbeat::Heartbeat(rpc::Connection& connection, rpc::ReportRequest report, uint32_t every_ms)
    : thread_([&connection, report = std::move(report), every_ms, this] {
        std::unique_lock lock(mutex_);
        while (!wake_.wait_for(lock, std::chrono::milliseconds(every_ms), [&] { return done_; })) {
          lock.unlock();
          try {
            wanted_ = connection.report(report).go_on;
          } catch (const Error&) {
            // The next call of the client itself will find out.
          }
          lock.lock();
        }
      }) {}

Heartbeat::~Heartbeat() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

HangUp::HangUp(rpc::Connection& connection, const volatile std::sig_atomic_t* stop)
    : thread_([&connection, stop, this] {
        constexpr std::chrono::milliseconds kLook(50);
        while (!done_) {
          if (is_stopped(stop)) {
            connection.cancel();
            return;
          }
          std::this_thread::sleep_for(kLook);
        }
      }) {}

HangUp::~HangUp() {
  done_ = true;
  thread_.join();
}

}  // namespace espalier::join
