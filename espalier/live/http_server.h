#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "espalier/live/board.h"

namespace espalier::live {

// Shows a board to a browser and to Prometheus, on this machine alone:
//   /             the live page, one file   /status.json?since=ROUND
//   /metrics      Prometheus' text          /healthz
// GET alone; connections, their memory and their time are bounded. Requests whose Host is not this
// machine's are refused, so that no web page of elsewhere can read along (DNS rebinding).
class HttpServer {
 public:
  // `listen`: "127.0.0.1:9464"; port 0 takes a free one. Throws Error for an address that is not
  // this machine's alone or a port that is taken. `board` outlives this.
  HttpServer(const std::string& listen, const Board& board, const std::string& title);
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
