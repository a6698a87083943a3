#pragma once

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <thread>

#include "espalier/rpc/connection.h"

// What goes on beside a client's own thread, each in a thread of its own, as long as it lives. The
// connection outlives both.
namespace espalier::join {

inline bool is_stopped(const volatile std::sig_atomic_t* stop) {
  return stop != nullptr && *stop != 0;
}

// Tells the server that the client is alive while it works, and hears whether its work is still
// wanted.
class Heartbeat {
 public:
  Heartbeat(rpc::Connection& connection, rpc::ReportRequest report, uint32_t every_ms);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  // By the server's last answer.
  bool wanted() const { return wanted_; }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::atomic<bool> wanted_ = true;
  std::thread thread_;
};

// Hangs up when `stop` becomes nonzero: calls may wait long.
class HangUp {
 public:
  HangUp(rpc::Connection& connection, const volatile std::sig_atomic_t* stop);
  ~HangUp();
  HangUp(const HangUp&) = delete;
  HangUp& operator=(const HangUp&) = delete;

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

}  // namespace espalier::join
