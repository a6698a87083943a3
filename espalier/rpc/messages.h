#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/digest.h"

// What clients and server say to each other, as plain values: the messages of federation.proto
// without protobuf. docs/protocol.md says what each is for. Numbers come from a peer: whoever reads
// them checks them.
namespace espalier::rpc {

inline constexpr uint32_t kProtocol = 1;

struct Version {
  uint32_t protocol = kProtocol, task_format = 0, codec_format = 0;
  std::string release;
};

// Milliseconds after which to come back: drawn uniformly between the two.
struct RetryWindow {
  uint32_t min_ms = 0, max_ms = 0;
};

// What models see of samples (data/dataset.h).
struct DataSpec {
  uint32_t kind = 0;
  std::vector<int64_t> sample_shape;
  int64_t num_classes = 0, vocabulary = 0;
  std::vector<float> mean, stddev, fill;
};

struct Device {
  std::string profile;
  uint64_t memory_bytes = 0;
  uint32_t threads = 1;
  std::string isa, engine;
  std::vector<std::string> stages, strategies;
};

struct CheckInRequest {
  Version version;
  Device device;
  DataSpec data;
  uint64_t num_samples = 0, num_test_samples = 0, data_fingerprint = 0;
  uint64_t run = 0;  // that the client's folder belongs to; 0: none yet
  std::vector<uint32_t> state_versions;
  std::string session, previous_session;
  bool own_program = false;  // trains by a program of its own: `data` says nothing
};

struct CheckInReply {
  uint64_t run = 0, client = 0;
  std::string config;
  DataSpec data;
  Version version;
  uint32_t heartbeat_ms = 0, lease_ms = 0;
  RetryWindow retry;
  uint32_t chunk_bytes = 0;  // the longest that the server takes; 0: 256 KiB
};

// One client's part of one exchange of a round.
struct Ticket {
  uint64_t run = 0;
  uint32_t round = 0, exchange = 0, attempt = 0, kind = 0;
  friend bool operator==(const Ticket&, const Ticket&) = default;
};

struct TaskNotice {
  Ticket ticket;
  uint64_t bytes = 0, digest = 0;
  uint32_t state_version = 0, deadline_ms = 0;
  uint64_t max_update_bytes = 0;
};

struct Finished {
  bool completed = false;
  std::string reason;
};

struct AwaitRequest {
  uint64_t run = 0;
  std::string session;
  uint32_t wait_ms = 0;
};

struct AwaitReply {
  std::variant<RetryWindow, TaskNotice, Finished> next;
  uint32_t committed_version = 0;
  std::string last_failure;
};

struct FetchRequest {
  Ticket ticket;
  std::string session;
  uint64_t digest = 0, offset = 0;
};

struct PushOpen {
  Ticket ticket;
  std::string session;
  uint64_t task_digest = 0, bytes = 0, digest = 0;
};

// The values are part of the protocol.
enum class Verdict : uint8_t {
  kMore = 0,
  kAccepted = 1,
  kDuplicate = 2,  // this very update is counted already: a success
  kStale = 3,      // of another round, exchange or run
  kRefused = 4,
  kBusy = 5,
};

struct PushReply {
  Verdict verdict = Verdict::kMore;
  uint64_t received = 0;
  RetryWindow retry;
  std::string detail;
};

enum class Phase : uint8_t {
  kIdle = 0,
  kFetching = 1,
  kTraining = 2,
  kPushing = 3,
  kFailed = 4,
  kLeaving = 5,
};

struct ReportRequest {
  Ticket ticket;
  std::string session;
  Phase phase = Phase::kIdle;
  float progress = 0;
  std::string detail;
};

struct ReportReply {
  bool go_on = false;
  RetryWindow retry;
};

}  // namespace espalier::rpc
