#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "espalier/rpc/credentials.h"
#include "espalier/rpc/messages.h"
#include "espalier/rpc/refusal.h"
#include "espalier/rpc/service.h"

namespace espalier::rpc {

struct ConnectionOptions {
  std::string server;  // host:port
  Credentials credentials;
  uint64_t insecure_client = 0;  // what this client calls itself without certificates
  uint32_t window_bytes = 1 << 20, keepalive_ms = 60'000;
};

// A client's side. Every call throws Unreachable when the server cannot be reached or the
// connection broke (it may be repeated), and Refusal when the server refuses. One thread at a time,
// but report() and cancel() by any.
class Connection {
 public:
  explicit Connection(const ConnectionOptions& options);
  ~Connection();

  CheckInReply check_in(const CheckInRequest& request);
  AwaitReply await(const AwaitRequest& request);
  // Calls take(offset, data) for the task's bytes from request.offset on, in order; `data` is gone
  // afterwards.
  void fetch(const FetchRequest& request,
             const std::function<void(uint64_t offset, const Pieces& data)>& take);
  // Sends the update; read(offset, out) gives its bytes.
  PushReply push(const PushOpen& open,
                 const std::function<void(uint64_t offset, std::span<uint8_t> out)>& read);
  ReportReply report(const ReportRequest& request);
  // A last report, after cancel() too: waits two seconds at most, and never throws.
  void leave(const ReportRequest& request);
  // Closes the connection between two calls; the next one makes another. Not while report() runs.
  void hang_up();
  // Ends the call in progress, if any, and every later one: they throw Unreachable.
  void cancel();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::rpc
