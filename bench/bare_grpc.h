#pragma once

#include <barrier>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "espalier/rpc/credentials.h"

// gRPC by itself, set as ours is: chunks of 256 KiB that point at one buffer, over mutual TLS, and
// nobody looks at what comes. The floor of whatever is built on it.
namespace espalier::bench {

// Answers any number of clients until it is destroyed: one stream of `down` bytes, and one that
// takes what comes.
class BareServer {
 public:
  BareServer(const rpc::Credentials& credentials, size_t down);
  ~BareServer();
  uint16_t port() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One client: connects, waits for the others, downloads everything, then uploads `up` bytes.
void bare_client(uint16_t port, const rpc::Credentials& credentials, size_t up,
                 std::barrier<>& together);

}  // namespace espalier::bench
