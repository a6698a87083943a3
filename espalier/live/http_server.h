#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "espalier/live/board.h"

namespace espalier::live {

// Shows a board to a browser and to Prometheus:
//   /             the live page, one file   /status.json?since=ROUND
//   /metrics      Prometheus' text          /healthz, /readyz (503 once the run is over)
// GET alone; connections, their memory and their time are bounded. Without a token it is on this
// machine alone, and requests whose Host is another are refused, so that no web page of elsewhere
// can read along (DNS rebinding). With one, /status.json and /metrics want it
// ("Authorization: Bearer TOKEN"); the page, which holds no figures, takes it from behind the # of
// its address, where it never reaches a server's log.
class HttpServer {
 public:
  // `listen`: "127.0.0.1:9464"; port 0 takes a free one. Throws Error for a port that is taken and,
  // without a token, for an address that is not this machine's alone. `board` outlives this.
  HttpServer(const std::string& listen, const Board& board, const std::string& title,
             const std::string& token = {});
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;
  // "http://127.0.0.1:9464/"
  std::string url() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::live
