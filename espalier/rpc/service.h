#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/rpc/messages.h"
#include "espalier/rpc/refusal.h"

// What a server does with the calls of clients; rpc/server.h carries them here. Functions are
// called by several threads at a time, which only move bytes: none of them may wait or compute for
// long. They throw Refusal to refuse.
namespace espalier::rpc {

// Who calls: by the certificate, or without certificates (--insecure) by what it says.
struct Caller {
  uint64_t client = 0;
  std::string serial;   // of the certificate, hexadecimal; empty without one
  std::string address;  // for logs alone
};

// Contiguous parts of memory, one after the other.
using Pieces = std::vector<std::span<const uint8_t>>;

// The bytes of a task, in pieces that are not copied. Thread-safe, immutable.
class Download {
 public:
  virtual ~Download() = default;
  virtual uint64_t size() const = 0;
  // Where `size` bytes from `offset` on lie, for as long as this object lives; offset + size ≤
  // size().
  virtual Pieces pieces(uint64_t offset, uint64_t size) const = 0;
};

// One update on its way. Used by one thread at a time.
class Upload {
 public:
  virtual ~Upload() = default;
  // How much of it is here: where the client goes on.
  virtual uint64_t received() const = 0;
  // The next bytes, `offset` being received(). Throws Refusal.
  virtual void append(uint64_t offset, const Pieces& data) = 0;
  // All bytes are here: calls `done` once, from any thread, with the verdict.
  virtual void finish(std::function<void(PushReply)> done) = 0;
};

class Service {
 public:
  virtual ~Service() = default;
  virtual CheckInReply check_in(const Caller& caller, const CheckInRequest& request) = 0;
  // Calls `answer` once, from any thread, at once or when there is something to say, at the latest
  // after request.wait_ms. Returns a ticket for gone().
  virtual uint64_t await(const Caller& caller, const AwaitRequest& request,
                         std::function<void(AwaitReply)> answer) = 0;
  // The client has hung up: its answer is wanted no more (it may still be called).
  virtual void gone(uint64_t ticket) = 0;
  virtual std::shared_ptr<const Download> fetch(const Caller& caller,
                                                const FetchRequest& request) = 0;
  // Null when `reply` says it all: a verdict without any bytes.
  virtual std::unique_ptr<Upload> push(const Caller& caller, const PushOpen& open,
                                       PushReply& reply) = 0;
  virtual ReportReply report(const Caller& caller, const ReportRequest& request) = 0;
};

}  // namespace espalier::rpc
