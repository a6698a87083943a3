#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "espalier/rpc/credentials.h"
#include "espalier/rpc/service.h"

namespace espalier::rpc {

struct ServerOptions {
  std::string listen = "127.0.0.1:8443";  // host:port; port 0 takes a free one
  Credentials credentials;
  std::string federation;
  // Whether a certificate of this serial number counts no more; asked in every call, by any thread.
  std::function<bool(const std::string& serial)> revoked;
  uint32_t chunk_bytes = 256 << 10;
  uint32_t window_bytes = 1 << 20;  // that gRPC reads ahead of us, per stream
  uint64_t memory_bytes = uint64_t{512} << 20;
  uint32_t keepalive_ms = 60'000;
  // A stream in which no chunk has come or gone for so long is ended; the client goes on where it
  // was. 0: none is.
  double stall_s = 300;
  // Of one client, on average; five times as many at once. 0: no limit.
  double checkins_per_s = 1, calls_per_s = 500;
};

// Listens, says who calls, keeps messages within their limits, and hands calls to a Service. No
// message may be longer than a chunk and a little: what is long travels in streams.
class Server {
 public:
  // Listens from here on. Throws Error when it cannot: a port that is taken, say, or credentials
  // that do not work. `service` outlives this.
  Server(const ServerOptions& options, Service& service);
  // Ends every call at once.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const;
  // No new calls; those that run may take so long to end. Waits.
  void stop(uint32_t grace_ms);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::rpc
