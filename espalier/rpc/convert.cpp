#include "espalier/rpc/convert.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/printable.h"
#include "espalier/rpc/refusal.h"

namespace espalier::rpc {

namespace {

[[noreturn]] void invalid(const std::string& text) {
  throw Refusal(Refused::kInvalid, "[rpc] " + text);
}

std::string text(const std::string& in, size_t longest, const char* what) {
  if (in.size() > longest)
    invalid(concat(what, " of ", in.size(), " bytes; the limit is ", longest));
  return in;
}

// A peer's words end on somebody's terminal: one line, without control characters.
std::string line(const std::string& in, const char* what) {
  std::string out = text(in, kMaxString, what);
  std::replace_if(
      out.begin(), out.end(), [](char c) { return c == '\n' || c == '\r' || c == '\t'; }, ' ');
  return printable(out);
}

// At most `longest` bytes, not cut within a character; protobuf's texts must be UTF-8.
std::string sendable(const std::string& in, size_t longest = kMaxString) {
  std::string out;
  for (size_t i = 0; i < in.size();) {
    const auto lead = static_cast<uint8_t>(in[i]);
    const size_t length = lead < 0x80       ? 1
                          : lead >> 5 == 6  ? 2
                          : lead >> 4 == 14 ? 3
                          : lead >> 3 == 30 ? 4
                                            : 0;
    bool whole = length > 0 && i + length <= in.size();
    for (size_t k = 1; whole && k < length; ++k)
      whole = (static_cast<uint8_t>(in[i + k]) & 0xC0) == 0x80;
    const std::string next = whole ? in.substr(i, length) : "?";
    if (out.size() + next.size() > longest) break;
    out += next;
    i += whole ? length : 1;
  }
  return out;
}

std::string session(const std::string& in, bool may_be_empty) {
  if (in.size() != kSessionBytes && !(may_be_empty && in.empty()))
    invalid(concat("expected a session of ", kSessionBytes, " bytes, got ", in.size()));
  return in;
}

template <class Out, class Field>
std::vector<Out> list(const Field& in, int longest, const char* what) {
  if (in.size() > longest)
    invalid(concat(what, ": a list of ", in.size(), "; the limit is ", longest));
  return {in.begin(), in.end()};
}

v1::Version to_proto(const Version& in) {
  v1::Version out;
  out.set_protocol(in.protocol);
  out.set_task_format(in.task_format);
  out.set_codec_format(in.codec_format);
  out.set_release(in.release);
  return out;
}

Version from_proto(const v1::Version& in) {
  return {in.protocol(), in.task_format(), in.codec_format(), line(in.release(), "release")};
}

v1::RetryWindow to_proto(const RetryWindow& in) {
  v1::RetryWindow out;
  out.set_min_ms(in.min_ms);
  out.set_max_ms(in.max_ms);
  return out;
}

RetryWindow from_proto(const v1::RetryWindow& in) {
  return {in.min_ms(), std::max(in.min_ms(), in.max_ms())};
}

v1::DataSpec to_proto(const DataSpec& in) {
  v1::DataSpec out;
  out.set_kind(in.kind);
  out.mutable_sample_shape()->Assign(in.sample_shape.begin(), in.sample_shape.end());
  out.set_num_classes(in.num_classes);
  out.set_vocabulary(in.vocabulary);
  out.mutable_mean()->Assign(in.mean.begin(), in.mean.end());
  out.mutable_stddev()->Assign(in.stddev.begin(), in.stddev.end());
  out.mutable_fill()->Assign(in.fill.begin(), in.fill.end());
  return out;
}

DataSpec from_proto(const v1::DataSpec& in) {
  constexpr int kMaxRank = 8, kMaxChannels = 4096;
  return {in.kind(),
          list<int64_t>(in.sample_shape(), kMaxRank, "sample_shape"),
          in.num_classes(),
          in.vocabulary(),
          list<float>(in.mean(), kMaxChannels, "mean"),
          list<float>(in.stddev(), kMaxChannels, "stddev"),
          list<float>(in.fill(), kMaxChannels, "fill")};
}

v1::Device to_proto(const Device& in) {
  v1::Device out;
  out.set_profile(in.profile);
  out.set_memory_bytes(in.memory_bytes);
  out.set_threads(in.threads);
  out.set_isa(in.isa);
  out.set_engine(in.engine);
  for (const std::string& stage : in.stages) out.add_stages(stage);
  for (const std::string& strategy : in.strategies) out.add_strategies(strategy);
  return out;
}

Device from_proto(const v1::Device& in) {
  constexpr int kMaxNames = 64;
  Device out{line(in.profile(), "profile"),
             in.memory_bytes(),
             in.threads(),
             line(in.isa(), "isa"),
             line(in.engine(), "engine"),
             list<std::string>(in.stages(), kMaxNames, "stages"),
             list<std::string>(in.strategies(), kMaxNames, "strategies")};
  for (const auto* names : {&out.stages, &out.strategies})
    for (const std::string& name : *names) text(name, kMaxString, "name");
  return out;
}

v1::Ticket to_proto(const Ticket& in) {
  v1::Ticket out;
  out.set_run(in.run);
  out.set_round(in.round);
  out.set_exchange(in.exchange);
  out.set_attempt(in.attempt);
  out.set_kind(in.kind);
  return out;
}

Ticket from_proto(const v1::Ticket& in) {
  return {in.run(), in.round(), in.exchange(), in.attempt(), in.kind()};
}

}  // namespace

v1::CheckInRequest to_proto(const CheckInRequest& in) {
  v1::CheckInRequest out;
  *out.mutable_version() = to_proto(in.version);
  *out.mutable_device() = to_proto(in.device);
  *out.mutable_data() = to_proto(in.data);
  out.set_num_samples(in.num_samples);
  out.set_num_test_samples(in.num_test_samples);
  out.set_data_fingerprint(in.data_fingerprint);
  out.set_run(in.run);
  out.mutable_state_versions()->Assign(in.state_versions.begin(), in.state_versions.end());
  out.set_session(in.session);
  out.set_previous_session(in.previous_session);
  out.set_own_program(in.own_program);
  return out;
}

CheckInRequest from_proto(const v1::CheckInRequest& in) {
  constexpr int kMaxVersions = 64;
  return {from_proto(in.version()),
          from_proto(in.device()),
          from_proto(in.data()),
          in.num_samples(),
          in.num_test_samples(),
          in.data_fingerprint(),
          in.run(),
          list<uint32_t>(in.state_versions(), kMaxVersions, "state_versions"),
          session(in.session(), false),
          session(in.previous_session(), true),
          in.own_program()};
}

v1::CheckInReply to_proto(const CheckInReply& in) {
  v1::CheckInReply out;
  out.set_run(in.run);
  out.set_client(in.client);
  out.set_config(in.config);
  *out.mutable_data() = to_proto(in.data);
  *out.mutable_version() = to_proto(in.version);
  out.set_heartbeat_ms(in.heartbeat_ms);
  out.set_lease_ms(in.lease_ms);
  *out.mutable_retry() = to_proto(in.retry);
  out.set_chunk_bytes(in.chunk_bytes);
  return out;
}

CheckInReply from_proto(const v1::CheckInReply& in) {
  return {in.run(),
          in.client(),
          text(in.config(), kMaxConfig, "config"),
          from_proto(in.data()),
          from_proto(in.version()),
          in.heartbeat_ms(),
          in.lease_ms(),
          from_proto(in.retry()),
          in.chunk_bytes()};
}

v1::AwaitRequest to_proto(const AwaitRequest& in) {
  v1::AwaitRequest out;
  out.set_run(in.run);
  out.set_session(in.session);
  out.set_wait_ms(in.wait_ms);
  return out;
}

AwaitRequest from_proto(const v1::AwaitRequest& in) {
  return {in.run(), session(in.session(), false), in.wait_ms()};
}

v1::AwaitReply to_proto(const AwaitReply& in) {
  v1::AwaitReply out;
  if (const auto* task = std::get_if<TaskNotice>(&in.next)) {
    v1::Task& to = *out.mutable_task();
    *to.mutable_ticket() = to_proto(task->ticket);
    to.set_bytes(task->bytes);
    to.set_digest(task->digest);
    to.set_state_version(task->state_version);
    to.set_deadline_ms(task->deadline_ms);
    to.set_max_update_bytes(task->max_update_bytes);
  } else if (const auto* finished = std::get_if<Finished>(&in.next)) {
    out.mutable_finished()->set_completed(finished->completed);
    out.mutable_finished()->set_reason(sendable(finished->reason));
  } else {
    *out.mutable_retry() = to_proto(std::get<RetryWindow>(in.next));
  }
  out.set_committed_version(in.committed_version);
  out.set_last_failure(sendable(in.last_failure));
  return out;
}

AwaitReply from_proto(const v1::AwaitReply& in) {
  AwaitReply out;
  if (in.has_task()) {
    out.next = TaskNotice{
        from_proto(in.task().ticket()), in.task().bytes(),       in.task().digest(),
        in.task().state_version(),      in.task().deadline_ms(), in.task().max_update_bytes()};
  } else if (in.has_finished()) {
    out.next = Finished{in.finished().completed(), line(in.finished().reason(), "reason")};
  } else {
    out.next = from_proto(in.retry());
  }
  out.committed_version = in.committed_version();
  out.last_failure = line(in.last_failure(), "last_failure");
  return out;
}

v1::FetchRequest to_proto(const FetchRequest& in) {
  v1::FetchRequest out;
  *out.mutable_ticket() = to_proto(in.ticket);
  out.set_session(in.session);
  out.set_digest(in.digest);
  out.set_offset(in.offset);
  return out;
}

FetchRequest from_proto(const v1::FetchRequest& in) {
  return {from_proto(in.ticket()), session(in.session(), false), in.digest(), in.offset()};
}

v1::PushOpen to_proto(const PushOpen& in) {
  v1::PushOpen out;
  *out.mutable_ticket() = to_proto(in.ticket);
  out.set_session(in.session);
  out.set_task_digest(in.task_digest);
  out.set_bytes(in.bytes);
  out.set_digest(in.digest);
  return out;
}

PushOpen from_proto(const v1::PushOpen& in) {
  return {from_proto(in.ticket()), session(in.session(), false), in.task_digest(), in.bytes(),
          in.digest()};
}

v1::PushReply to_proto(const PushReply& in) {
  v1::PushReply out;
  out.set_verdict(static_cast<v1::Verdict>(in.verdict));
  out.set_received(in.received);
  *out.mutable_retry() = to_proto(in.retry);
  out.set_detail(sendable(in.detail));
  return out;
}

PushReply from_proto(const v1::PushReply& in) {
  if (in.verdict() < v1::Verdict_MIN || in.verdict() > v1::Verdict_MAX)
    invalid(concat("unknown verdict ", static_cast<int>(in.verdict())));
  return {static_cast<Verdict>(in.verdict()), in.received(), from_proto(in.retry()),
          line(in.detail(), "detail")};
}

v1::ReportRequest to_proto(const ReportRequest& in) {
  v1::ReportRequest out;
  *out.mutable_ticket() = to_proto(in.ticket);
  out.set_session(in.session);
  out.set_phase(static_cast<v1::Phase>(in.phase));
  out.set_progress(in.progress);
  out.set_detail(sendable(in.detail));
  return out;
}

ReportRequest from_proto(const v1::ReportRequest& in) {
  if (in.phase() < v1::Phase_MIN || in.phase() > v1::Phase_MAX)
    invalid(concat("unknown phase ", static_cast<int>(in.phase())));
  const float progress = std::isfinite(in.progress()) ? std::clamp(in.progress(), 0.0F, 1.0F) : 0;
  return {from_proto(in.ticket()), session(in.session(), false), static_cast<Phase>(in.phase()),
          progress, line(in.detail(), "detail")};
}

v1::ReportReply to_proto(const ReportReply& in) {
  v1::ReportReply out;
  out.set_go_on(in.go_on);
  *out.mutable_retry() = to_proto(in.retry);
  return out;
}

ReportReply from_proto(const v1::ReportReply& in) { return {in.go_on(), from_proto(in.retry())}; }

}  // namespace espalier::rpc
