#pragma once

#include <atomic>

#include "espalier/base/digest.h"
#include "espalier/serve/network_backend.h"
#include "espalier/serve/sent_task.h"

// What NetworkBackend's sides share: network_backend.cpp is the round's, network_service.cpp the
// clients', network_delivery.cpp takes what has arrived from these to that. Everything here is read
// and written with its mutex held.
namespace espalier::serve {

// One client's part of the open exchange.
struct NetworkBackend::Part {
  enum class Wait : uint8_t { kAwaited, kDelivering, kDelivered, kFailed };
  Wait wait = Wait::kAwaited;
  std::shared_ptr<const SentTask> task;  // once it is encoded
  bool encoding = false, asked = false;  // asked: a task was made, and counts as sent
  bool uploading = false;
  // Of an upload that is not whole: what it is to be, and how much of it is in the file.
  uint64_t update_digest = 0, update_bytes = 0, received = 0;
  std::shared_ptr<Digest> so_far;  // of what is received
  uint64_t counted_digest = 0;     // of the update that was delivered
};

struct NetworkBackend::Exchange {
  round::ExchangeId id;
  round::RoundTraffic* traffic = nullptr;
  std::map<uint64_t, Part> parts;
  size_t settled = 0, delivered = 0;
  size_t wanted = 0;  // so many answers are enough
  uint32_t attempt = 1;
};

// The process that acts as a client.
struct NetworkBackend::Session {
  std::string id;
  Clock::time_point seen;
  // When a piece of a task was last read for it: written without the mutex.
  std::shared_ptr<std::atomic<Clock::time_point>> moved =
      std::make_shared<std::atomic<Clock::time_point>>();
  rpc::Phase phase = rpc::Phase::kIdle;
  float progress = 0;
  std::string detail;
  bool told_end = false, left = false;
  std::optional<uint32_t> used_in;  // the round that it takes part in, until that is over
};

}  // namespace espalier::serve
