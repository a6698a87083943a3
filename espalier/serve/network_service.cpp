#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/file_writer.h"
#include "espalier/serve/network_state.h"

namespace espalier::serve {

namespace fs = std::filesystem;

namespace {

// A task on its way: whoever takes its pieces is there, however long that takes.
class WatchedDownload final : public rpc::Download {
 public:
  using Clock = std::chrono::steady_clock;
  WatchedDownload(std::shared_ptr<const rpc::Download> task,
                  std::shared_ptr<std::atomic<Clock::time_point>> moved)
      : task_(std::move(task)), moved_(std::move(moved)) {}
  uint64_t size() const override { return task_->size(); }
  rpc::Pieces pieces(uint64_t offset, uint64_t size) const override {
    *moved_ = Clock::now();
    return task_->pieces(offset, size);
  }

 private:
  const std::shared_ptr<const rpc::Download> task_;
  const std::shared_ptr<std::atomic<Clock::time_point>> moved_;
};

}  // namespace

// An update that arrives: bytes go to a file, so that memory is that of one chunk.
class NetworkBackend::Incoming final : public rpc::Upload {
 public:
  // `so_far`: of what is in the file already, `received` bytes.
  Incoming(NetworkBackend& owner, uint64_t client, std::shared_ptr<Exchange> exchange,
           uint64_t digest, uint64_t received, std::shared_ptr<Digest> so_far)
      : owner_(owner),
        client_(client),
        exchange_(std::move(exchange)),
        digest_(digest),
        received_(received),
        so_far_(std::move(so_far)) {
    const Spool::Id id = owner_.spooled(*exchange_, client_);
    try {
      // What lies there of another update or attempt is no part of this one.
      file_.emplace(owner_.spool_.arriving(id), received_ == 0);
    } catch (const StorageError& error) {
      release();
      throw rpc::Refusal(rpc::Refused::kLater, error.what());
    }
  }
  ~Incoming() override {
    if (!finished_) release();
  }

  uint64_t received() const override { return received_; }
  void append(uint64_t offset, const rpc::Pieces& data) override {
    try {
      file_->write(offset, data);
    } catch (const StorageError& error) {
      throw rpc::Refusal(rpc::Refused::kLater, error.what());
    }
    for (const auto piece : data) {
      so_far_->update(piece);
      received_ += piece.size();
    }
    const std::lock_guard lock(owner_.mutex_);
    exchange_->parts.at(client_).received = received_;
    owner_.sessions_.at(client_).seen = Clock::now();
  }
  void finish(std::function<void(rpc::PushReply)> done) override {
    finished_ = true;
    {
      const std::lock_guard lock(owner_.mutex_);
      Part& part = exchange_->parts.at(client_);
      part.uploading = false;
      --owner_.uploads_;
      // The exchange may have ended while this came in.
      const bool open = owner_.exchange_ == exchange_ && part.wait == Part::Wait::kAwaited;
      if (open) {
        part.wait = Part::Wait::kDelivering;
        ++owner_.working_;
        owner_.jobs_->post([&owner = owner_, client = client_, digest = digest_,
                            intact = so_far_->value() == digest_, done = std::move(done)] {
          owner.deliver(client, digest, intact, done);
        });
        return;
      }
    }
    discard_unless_repeated();
    {
      const std::lock_guard lock(owner_.mutex_);
      owner_.cohort_.answered(client_);
    }
    done({rpc::Verdict::kStale, received_, {}, "the exchange is over"});
  }

 private:
  // Another attempt of the round has the same file.
  void discard_unless_repeated() {
    const std::lock_guard lock(owner_.mutex_);
    if (owner_.exchange_ && owner_.exchange_->id == exchange_->id) return;
    owner_.spool_.discard(owner_.spooled(*exchange_, client_));
  }
  void release() {
    const std::lock_guard lock(owner_.mutex_);
    exchange_->parts.at(client_).uploading = false;
    --owner_.uploads_;
  }

  NetworkBackend& owner_;
  const uint64_t client_;
  const std::shared_ptr<Exchange> exchange_;
  const uint64_t digest_;
  uint64_t received_;
  const std::shared_ptr<Digest> so_far_;
  std::optional<FileWriter> file_;
  bool finished_ = false;
};

rpc::CheckInReply NetworkBackend::check_in(const rpc::Caller& caller,
                                           const rpc::CheckInRequest& request) {
  const auto refuse = [](const std::string& why) {
    throw rpc::Refusal(rpc::Refused::kMismatch, why);
  };
  const rpc::Version& ours = options_.version;
  const rpc::Version& theirs = request.version;
  if (theirs.protocol != ours.protocol || theirs.task_format != ours.task_format ||
      theirs.codec_format != ours.codec_format) {
    refuse(concat("[serve] the server speaks protocol ", ours.protocol, " with messages ",
                  ours.task_format, ".", ours.codec_format, " (espalier ", ours.release,
                  "), the client ", theirs.protocol, " with ", theirs.task_format, ".",
                  theirs.codec_format, " (", theirs.release, "); install the same version"));
  }
  if (request.run != 0 && request.run != options_.run)
    refuse(
        "[serve] the client's folder belongs to another run; give it another --folder, or remove "
        "that one");
  const rpc::DataSpec &wanted = data_, &has = request.data;
  if (!request.own_program &&
      (has.kind != wanted.kind || has.sample_shape != wanted.sample_shape ||
       has.num_classes > wanted.num_classes || has.vocabulary > wanted.vocabulary)) {
    refuse(
        "[serve] the client's samples are of another kind, shape or number of classes than the "
        "run's");
  }
  if (request.num_samples == 0 || request.num_samples > options_.max_samples)
    refuse(concat("[serve] expected 1 to ", options_.max_samples, " samples, got ",
                  request.num_samples));
  const auto now = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find(caller.client);
    if (found != sessions_.end()) {
      const Session& other = found->second;
      if (is_alive(other, now) && other.id != request.session &&
          other.id != request.previous_session) {
        const auto silent =
            std::chrono::duration_cast<std::chrono::seconds>(now - other.seen).count();
        throw rpc::Refusal(
            rpc::Refused::kConflict,
            concat("[serve] client ", caller.client, " is connected from elsewhere (last heard of ",
                   silent, " s ago); stop it, or use its folder"));
      }
    }
  }
  try {
    registry_.enrol(caller.client, {request.num_samples, request.num_test_samples,
                                    request.data_fingerprint, request.device.profile});
  } catch (const StorageError& error) {
    throw rpc::Refusal(rpc::Refused::kLater, error.what());
  } catch (const Error& error) {
    throw rpc::Refusal(rpc::Refused::kMismatch, error.what());
  }
  const std::lock_guard lock(mutex_);
  Session& session = sessions_[caller.client];
  session = {};
  session.id = request.session;
  session.seen = now;
  here_.insert(caller.client);
  rpc::RetryWindow after_break;
  if (options_.open) {
    const Window window = pace_.reconnect(population_.active(now_s()));
    after_break.max_ms = static_cast<uint32_t>(std::lround(window.max_s * 1000));
  }
  changed_.notify_all();
  say({{"event", "joined"},
       {"client", caller.client},
       {"address", caller.address},
       {"samples", request.num_samples},
       {"release", theirs.release},
       {"instructions", request.device.isa}});
  return {options_.run,
          caller.client,
          options_.client_config,
          data_,
          options_.version,
          options_.heartbeat_ms,
          options_.lease_ms,
          after_break,
          0};  // the transport says how long chunks are
}

// With the mutex held.
NetworkBackend::Session& NetworkBackend::session_of(const rpc::Caller& caller,
                                                    const std::string& session) {
  const auto found = sessions_.find(caller.client);
  if (found == sessions_.end() || found->second.left)
    throw rpc::Refusal(rpc::Refused::kLater, "[serve] check in first");
  if (found->second.id != session)
    throw rpc::Refusal(rpc::Refused::kConflict,
                       concat("[serve] another process acts as client ", caller.client));
  found->second.seen = Clock::now();
  return found->second;
}

Spool::Id NetworkBackend::spooled(const Exchange& exchange, uint64_t client) const {
  return {exchange.id.round, exchange.id.number, client};
}

rpc::Ticket NetworkBackend::ticket_of(const Exchange& exchange) const {
  return {options_.run, exchange.id.round, exchange.id.number, exchange.attempt,
          static_cast<uint32_t>(exchange.id.kind)};
}

uint64_t NetworkBackend::await(const rpc::Caller& caller, const rpc::AwaitRequest& request,
                               std::function<void(rpc::AwaitReply)> answer) {
  Lock lock(mutex_);
  Session& session = session_of(caller, request.session);
  session.phase = rpc::Phase::kIdle;
  session.progress = 0;
  here_.insert(caller.client);
  if (options_.open) {
    population_.seen(caller.client, now_s());
    if (const auto window = send_away(caller.client, session)) {
      rpc::AwaitReply reply = reply_to(caller.client);
      reply.next = *window;
      lock.unlock();
      answer(reply);
      return 0;  // nobody's ticket
    }
  }
  const auto wait =
      std::chrono::milliseconds(std::min<uint32_t>(request.wait_ms, options_.poll_ms));
  const bool at_once = finished_ || away_;
  const auto until = Clock::now() + (at_once ? std::chrono::milliseconds(0) : wait);
  const auto first = waiting_.next_end();
  const uint64_t ticket = waiting_.enter(caller.client, std::move(answer), until);
  if (!first || until < *first) time_changed_.notify_all();
  notify(caller.client, lock);
  if (options_.open) changed_.notify_all();  // one more to choose among
  return ticket;
}

void NetworkBackend::gone(uint64_t ticket) {
  const std::lock_guard lock(mutex_);
  waiting_.leave(ticket);
}

// Whoever waits as this client gets its task, if it has one.
void NetworkBackend::notify(uint64_t client, const Lock&) {
  if (!exchange_) return;
  const auto part = exchange_->parts.find(client);
  if (part == exchange_->parts.end() || part->second.wait != Part::Wait::kAwaited) return;
  for (const uint64_t ticket : waiting_.tickets_of(client)) {
    if (part->second.task) {
      jobs_->post([this, client, ticket, task = part->second.task] { tell(client, ticket, task); });
    } else if (!part->second.encoding) {
      part->second.encoding = true;
      ++working_;
      jobs_->post([this, client] { prepare(client); });
    }
  }
}

std::shared_ptr<const rpc::Download> NetworkBackend::fetch(const rpc::Caller& caller,
                                                           const rpc::FetchRequest& request) {
  const std::lock_guard lock(mutex_);
  Session& session = session_of(caller, request.session);
  if (exchange_) {
    const auto part = exchange_->parts.find(caller.client);
    if (part != exchange_->parts.end() && part->second.task &&
        part->second.task->digest() == request.digest) {
      session.phase = rpc::Phase::kFetching;
      return std::make_shared<WatchedDownload>(part->second.task, session.moved);
    }
  }
  throw rpc::Refusal(rpc::Refused::kMismatch, "[serve] this task is over; ask for the next");
}

std::unique_ptr<rpc::Upload> NetworkBackend::push(const rpc::Caller& caller,
                                                  const rpc::PushOpen& open,
                                                  rpc::PushReply& reply) {
  std::shared_ptr<Exchange> exchange;
  std::shared_ptr<Digest> so_far;
  uint64_t received = 0;
  {
    const std::lock_guard lock(mutex_);
    Session& session = session_of(caller, open.session);
    session.phase = rpc::Phase::kPushing;
    const auto verdict = [&](rpc::Verdict what, const char* detail) {
      reply = {what, 0, {1000, 5000}, detail};
      return nullptr;
    };
    if (!exchange_ || open.ticket.run != options_.run) {
      cohort_.answered(caller.client);
      return verdict(rpc::Verdict::kStale, "no such exchange is open");
    }
    const auto found = exchange_->parts.find(caller.client);
    if (found == exchange_->parts.end()) {
      cohort_.answered(caller.client);
      return verdict(rpc::Verdict::kStale, "this client is not asked in this exchange");
    }
    Part& part = found->second;
    if (part.wait == Part::Wait::kDelivered || part.wait == Part::Wait::kDelivering) {
      return part.counted_digest == open.digest && part.wait == Part::Wait::kDelivered
                 ? verdict(rpc::Verdict::kDuplicate, "it is counted already")
             : part.wait == Part::Wait::kDelivering
                 ? verdict(rpc::Verdict::kBusy, "it is being counted")
                 : verdict(rpc::Verdict::kRefused, "another update of this client is counted");
    }
    if (part.wait == Part::Wait::kFailed)
      return verdict(rpc::Verdict::kStale, "this client has failed in this exchange");
    // The task is encoded anew after a restart; its bytes are the same.
    if (!part.task || part.task->digest() != open.task_digest)
      return verdict(rpc::Verdict::kStale, "it answers another task");
    if (open.bytes == 0 || open.bytes > max_update_bytes_)
      throw rpc::Refusal(rpc::Refused::kInvalid,
                         concat("[serve] an update of ", open.bytes, " bytes; at most ",
                                max_update_bytes_, " are taken (network.max_update_mb)"));
    if (part.uploading || uploads_ >= options_.max_uploads)
      return verdict(rpc::Verdict::kBusy, "too many uploads at a time");
    if (part.update_digest != open.digest || part.update_bytes != open.bytes) {
      part.update_digest = open.digest;
      part.update_bytes = open.bytes;
      part.received = 0;
    }
    if (part.received == 0) part.so_far = std::make_shared<Digest>();
    part.uploading = true;
    ++uploads_;
    received = part.received;
    so_far = part.so_far;
    exchange = exchange_;
  }
  return std::make_unique<Incoming>(*this, caller.client, std::move(exchange), open.digest,
                                    received, std::move(so_far));
}

rpc::ReportReply NetworkBackend::report(const rpc::Caller& caller,
                                        const rpc::ReportRequest& request) {
  Lock lock(mutex_);
  Session& session = session_of(caller, request.session);
  session.phase = request.phase;
  session.progress = request.progress;
  session.detail = request.detail;
  if (request.phase == rpc::Phase::kLeaving) {
    session.left = true;
    here_.erase(caller.client);
    say({{"event", "left"}, {"client", caller.client}});
    changed_.notify_all();
    return {false, {}};
  }
  // Whom nobody waits for any more, but who would have answered.
  const bool awaited = exchange_ && exchange_->parts.contains(caller.client);
  if (!awaited && request.phase == rpc::Phase::kTraining) cohort_.answered(caller.client);
  if (!exchange_) return {false, {}};
  // Of an earlier attempt too: its tasks are the same. A failure in it is over, though.
  rpc::Ticket ticket = request.ticket;
  const bool this_attempt = ticket.attempt == exchange_->attempt;
  ticket.attempt = exchange_->attempt;
  if (!(ticket == ticket_of(*exchange_))) return {false, {}};
  const auto found = exchange_->parts.find(caller.client);
  if (found == exchange_->parts.end() || found->second.wait != Part::Wait::kAwaited)
    return {false, {}};
  if (request.phase != rpc::Phase::kFailed) return {true, {}};
  if (!this_attempt) return {false, {}};
  const auto exchange = exchange_;
  found->second.wait = Part::Wait::kFailed;
  ++exchange->settled;
  last_failures_[caller.client] = request.detail;
  say({{"event", "failed"},
       {"round", exchange->id.round},
       {"exchange", exchange->id.number},
       {"client", caller.client},
       {"detail", request.detail}});
  // run() does not return meanwhile: the traffic is in use.
  ++working_;
  lock.unlock();
  exchange->traffic->failed(caller.client, request.detail);
  lock.lock();
  --working_;
  changed_.notify_all();
  return {false, {}};
}

// ---------------------------------------------------------------- time

// Waiters whose time is over are told to come back, and when, or that the run has ended.
void NetworkBackend::answer_overdue() {
  std::vector<std::pair<WaitingRoom::Waiter, rpc::AwaitReply>> answers;
  {
    const std::lock_guard lock(mutex_);
    for (WaitingRoom::Waiter& waiter : waiting_.leave_overdue(Clock::now())) {
      rpc::AwaitReply reply = reply_to(waiter.client);
      Session& session = sessions_.at(waiter.client);
      if (finished_) {
        reply.next = *finished_;
        session.told_end = true;
      } else if (away_) {
        reply.next = *away_;
      } else if (const auto window = send_away(waiter.client, session)) {
        reply.next = *window;
      }
      answers.emplace_back(std::move(waiter), std::move(reply));
    }
    if (finished_ || away_) changed_.notify_all();
  }
  for (auto& [waiter, reply] : answers) waiter.answer(reply);
}

void NetworkBackend::keep_time() {
  Lock lock(mutex_);
  while (!stopping_) {
    const auto next = waiting_.next_end();
    if (!next) {
      time_changed_.wait(lock);
    } else if (*next > Clock::now()) {
      time_changed_.wait_until(lock, *next);
    }
    lock.unlock();
    answer_overdue();
    lock.lock();
  }
}

}  // namespace espalier::serve
