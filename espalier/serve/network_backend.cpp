#include "espalier/serve/network_backend.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::serve {

namespace fs = std::filesystem;

// A task as bytes, read in place: u32 size of the head, the head, then for each body its u64 size
// and the body (docs/format.md).
class NetworkBackend::SentTask final : public rpc::Download {
 public:
  explicit SentTask(wire::EncodedMessage message) : message_(std::move(message)) {
    ByteWriter out(frame_);
    out.put(static_cast<uint32_t>(message_.head.size()));
    out.bytes(message_.head);
    sizes_.reserve(message_.bodies.size());  // pieces point into it
    for (const auto& body : message_.bodies) sizes_.push_back(body->size());
    add({frame_.data(), frame_.size()});
    for (size_t i = 0; i < sizes_.size(); ++i) {
      add({reinterpret_cast<const uint8_t*>(&sizes_[i]), sizeof(uint64_t)});
      add({message_.bodies[i]->data(), message_.bodies[i]->size()});
    }
    XXH3_state_t* state = XXH3_createState();
    XXH3_64bits_reset(state);
    for (const Piece& piece : pieces_)
      XXH3_64bits_update(state, piece.data.data(), piece.data.size());
    digest_ = XXH3_64bits_digest(state);
    XXH3_freeState(state);
  }

  uint64_t digest() const { return digest_; }
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, std::span<uint8_t> out) const override {
    auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), offset,
                                  [](uint64_t at, const Piece& one) { return at < one.begin; });
    for (--piece; !out.empty(); ++piece) {
      const uint64_t skip = offset - piece->begin;
      const size_t count = std::min<size_t>(out.size(), piece->data.size() - skip);
      std::memcpy(out.data(), piece->data.data() + skip, count);
      out = out.subspan(count);
      offset += count;
    }
  }

 private:
  struct Piece {
    uint64_t begin;
    std::span<const uint8_t> data;
  };
  void add(std::span<const uint8_t> data) {
    if (data.empty()) return;
    pieces_.push_back({size_, data});
    size_ += data.size();
  }

  wire::EncodedMessage message_;
  Bytes frame_;
  std::vector<uint64_t> sizes_;
  std::vector<Piece> pieces_;
  uint64_t size_ = 0, digest_ = 0;
};

// One client's part of the open exchange.
struct NetworkBackend::Part {
  enum class Wait : uint8_t { kAwaited, kDelivering, kDelivered, kFailed };
  Wait wait = Wait::kAwaited;
  std::shared_ptr<const SentTask> task;  // once it is encoded
  bool encoding = false;
  bool uploading = false;
  // Of an upload that is not whole: what it is to be, and how much of it is in the file.
  uint64_t update_digest = 0, update_bytes = 0, received = 0;
  uint64_t counted_digest = 0;  // of the update that was delivered
};

struct NetworkBackend::Exchange {
  round::ExchangeId id;
  round::RoundTraffic* traffic = nullptr;
  std::map<uint64_t, Part> parts;
  size_t settled = 0;
};

// The process that acts as a client.
struct NetworkBackend::Session {
  std::string id;
  Clock::time_point seen;
  rpc::Phase phase = rpc::Phase::kIdle;
  float progress = 0;
  std::string detail;
  bool told_end = false, left = false;
};

// A client that waits for something to do.
struct NetworkBackend::Waiter {
  uint64_t client = 0;
  std::function<void(rpc::AwaitReply)> answer;
  Clock::time_point until;
};

// An update that arrives: bytes go to a file, so that memory is that of one chunk.
class NetworkBackend::Incoming final : public rpc::Upload {
 public:
  Incoming(NetworkBackend& owner, uint64_t client, std::shared_ptr<Exchange> exchange,
           fs::path file, uint64_t digest, uint64_t received)
      : owner_(owner),
        client_(client),
        exchange_(std::move(exchange)),
        file_(std::move(file)),
        digest_(digest),
        received_(received) {
    descriptor_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor_ < 0) {
      release();
      throw rpc::Refusal(rpc::Refused::kLater,
                         concat("[serve] cannot keep an update: ", std::strerror(errno)));
    }
  }
  ~Incoming() override {
    ::close(descriptor_);
    if (!finished_) release();
  }

  uint64_t received() const override { return received_; }
  void append(uint64_t offset, std::span<const uint8_t> data) override {
    size_t done = 0;
    while (done < data.size()) {
      const ssize_t count = ::pwrite(descriptor_, data.data() + done, data.size() - done,
                                     static_cast<off_t>(offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        throw rpc::Refusal(rpc::Refused::kLater,
                           concat("[serve] cannot keep an update: ", std::strerror(errno)));
      }
      done += static_cast<size_t>(count);
    }
    received_ = offset + data.size();
    const std::lock_guard lock(owner_.mutex_);
    exchange_->parts.at(client_).received = received_;
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
        owner_.jobs_->post([&owner = owner_, client = client_, file = file_, digest = digest_,
                            done = std::move(done)] { owner.deliver(client, file, digest, done); });
        return;
      }
    }
    std::error_code ignored;
    fs::remove(file_, ignored);
    done({rpc::Verdict::kStale, received_, {}, "the exchange is over"});
  }

 private:
  void release() {
    const std::lock_guard lock(owner_.mutex_);
    exchange_->parts.at(client_).uploading = false;
    --owner_.uploads_;
  }

  NetworkBackend& owner_;
  const uint64_t client_;
  const std::shared_ptr<Exchange> exchange_;
  const fs::path file_;
  const uint64_t digest_;
  uint64_t received_;
  int descriptor_ = -1;
  bool finished_ = false;
};

NetworkBackend::NetworkBackend(const NetworkOptions& options)
    : options_(options), registry_(options.folder / "registry.jsonl", options.num_clients) {
  // What an earlier process was sent is sent again: the client keeps it until it is told.
  std::error_code ignored;
  fs::remove_all(options_.folder / "arriving", ignored);
  make_folder(options_.folder / "arriving");
  jobs_ = std::make_unique<JobQueue>(options_.workers);
  time_ = std::thread([this] { keep_time(); });
}

NetworkBackend::~NetworkBackend() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  time_.join();
  jobs_.reset();
}

// ---------------------------------------------------------------- the round's side

bool NetworkBackend::wait_for_clients(double deadline_s, const volatile std::sig_atomic_t* stop,
                                      const std::function<void(uint64_t, uint64_t)>& tell) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(deadline_s);
  uint64_t told = ~uint64_t{0};
  while (registry_.size() < options_.num_clients) {
    if (stop != nullptr && *stop != 0) return false;
    if (const uint64_t now = registry_.size(); now != told) tell(told = now, options_.num_clients);
    if (Clock::now() >= deadline) {
      constexpr size_t kShown = 10;
      std::string names;
      for (const uint64_t client : registry_.missing(kShown))
        names += concat(names.empty() ? "" : ", ", client);
      const uint64_t missing = options_.num_clients - registry_.size();
      fail("serve", missing, missing == 1 ? " client has" : " clients have", " not joined within ",
           deadline_s, " s: ", names, missing > kShown ? ", …" : "",
           "; start them, or raise server.enrol_deadline_s");
    }
    Lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(100));
  }
  tell(options_.num_clients, options_.num_clients);
  return true;
}

void NetworkBackend::run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) {
  const auto exchange = std::make_shared<Exchange>();
  exchange->id = traffic.id();
  exchange->traffic = &traffic;
  for (const uint64_t client : clients) exchange->parts[client];
  const auto deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(
                         std::chrono::duration<double>(options_.round_deadline_s));
  Lock lock(mutex_);
  exchange_ = exchange;
  for (const uint64_t client : clients) notify(client, lock);
  changed_.wait_until(lock, deadline, [&] {
    return exchange->settled == exchange->parts.size() || broken_ != nullptr;
  });
  exchange_ = nullptr;
  std::error_code ignored;  // of what is not whole; who still writes writes into nothing
  for (const auto& [client, part] : exchange->parts)
    if (part.update_bytes > 0) fs::remove(file_of(*exchange, client), ignored);
  // The traffic is the caller's again only when nobody uses it.
  changed_.wait(lock, [&] { return working_ == 0; });
  if (broken_) std::rethrow_exception(broken_);
}

void NetworkBackend::commit(const std::map<uint64_t, uint32_t>& versions) {
  const std::lock_guard lock(mutex_);
  for (const auto& [client, version] : versions) committed_[client] = version;
}

void NetworkBackend::finish(bool completed, const std::string& reason, double grace_s) {
  Lock lock(mutex_);
  finished_ = rpc::Finished{completed, reason};
  for (auto& [ticket, waiter] : waiters_) waiter.until = Clock::now();
  changed_.notify_all();
  // Also who is away just now: it would look for the server for ever.
  const auto all_know = [&] {
    for (uint64_t client = 0; client < options_.num_clients; ++client) {
      if (!registry_.contains(client)) continue;
      const auto session = sessions_.find(client);
      if (session == sessions_.end() || !(session->second.told_end || session->second.left))
        return false;
    }
    return true;
  };
  changed_.wait_for(lock, std::chrono::duration<double>(grace_s), all_know);
}

std::vector<ClientView> NetworkBackend::clients() const {
  const std::lock_guard lock(mutex_);
  std::vector<ClientView> out;
  for (uint64_t client = 0; client < options_.num_clients; ++client) {
    ClientView& view = out.emplace_back();
    view.client = client;
    view.enrolled = registry_.contains(client);
    const auto found = sessions_.find(client);
    if (found == sessions_.end()) continue;
    const Session& session = found->second;
    view.connected =
        !session.left && Clock::now() - session.seen < std::chrono::milliseconds(options_.lease_ms);
    view.phase = session.phase;
    view.progress = session.progress;
    view.detail = session.detail;
  }
  return out;
}

// ---------------------------------------------------------------- the clients' side

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
  if (has.kind != wanted.kind || has.sample_shape != wanted.sample_shape ||
      has.num_classes > wanted.num_classes || has.vocabulary > wanted.vocabulary) {
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
      const bool alive =
          !other.left && now - other.seen < std::chrono::milliseconds(options_.lease_ms);
      if (alive && other.id != request.session && other.id != request.previous_session) {
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
  changed_.notify_all();
  return {options_.run,     caller.client,         options_.client_config, data_,
          options_.version, options_.heartbeat_ms, options_.lease_ms,      {}};
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

fs::path NetworkBackend::file_of(const Exchange& exchange, uint64_t client) const {
  return options_.folder / "arriving" /
         concat(exchange.id.round, "-", exchange.id.number, "-", client);
}

rpc::Ticket NetworkBackend::ticket_of(const Exchange& exchange) const {
  return {options_.run, exchange.id.round, exchange.id.number, 1,
          static_cast<uint32_t>(exchange.id.kind)};
}

uint64_t NetworkBackend::await(const rpc::Caller& caller, const rpc::AwaitRequest& request,
                               std::function<void(rpc::AwaitReply)> answer) {
  Lock lock(mutex_);
  Session& session = session_of(caller, request.session);
  session.phase = rpc::Phase::kIdle;
  session.progress = 0;
  const uint64_t ticket = next_waiter_++;
  const auto wait =
      std::chrono::milliseconds(std::min<uint32_t>(request.wait_ms, options_.poll_ms));
  waiters_[ticket] = {caller.client, std::move(answer), Clock::now() + wait};
  if (finished_) waiters_[ticket].until = Clock::now();
  notify(caller.client, lock);
  changed_.notify_all();  // the clock looks when to wake next
  return ticket;
}

void NetworkBackend::gone(uint64_t ticket) {
  const std::lock_guard lock(mutex_);
  waiters_.erase(ticket);
}

// Whoever waits as this client gets its task, if it has one.
void NetworkBackend::notify(uint64_t client, const Lock&) {
  if (!exchange_) return;
  const auto part = exchange_->parts.find(client);
  if (part == exchange_->parts.end() || part->second.wait != Part::Wait::kAwaited) return;
  for (const auto& [ticket, waiter] : waiters_) {
    if (waiter.client != client) continue;
    if (part->second.task) {
      jobs_->post([this, ticket = ticket, task = part->second.task] { tell(ticket, task); });
    } else if (!part->second.encoding) {
      part->second.encoding = true;
      ++working_;
      jobs_->post([this, client] { prepare(client); });
    }
  }
}

void NetworkBackend::prepare(uint64_t client) {
  std::shared_ptr<Exchange> exchange;
  {
    const std::lock_guard lock(mutex_);
    exchange = exchange_;
  }
  std::shared_ptr<const SentTask> task;
  std::string error;
  if (exchange) {
    try {
      task = std::make_shared<SentTask>(exchange->traffic->task(client));
    } catch (const Error& failure) {
      error = failure.what();
      exchange->traffic->failed(client, error);
    }
  }
  {
    const Lock lock(mutex_);
    --working_;
    if (exchange) {
      Part& part = exchange->parts.at(client);
      part.encoding = false;
      part.task = task;
      if (!error.empty()) {
        part.wait = Part::Wait::kFailed;
        ++exchange->settled;
        last_failures_[client] = error;
      }
      notify(client, lock);
    }
    changed_.notify_all();
  }
}

void NetworkBackend::tell(uint64_t ticket, const std::shared_ptr<const SentTask>& task) {
  rpc::AwaitReply reply;
  std::function<void(rpc::AwaitReply)> answer;
  {
    const std::lock_guard lock(mutex_);
    const auto waiter = waiters_.find(ticket);
    if (waiter == waiters_.end() || !exchange_) return;  // it asks again
    const uint64_t client = waiter->second.client;
    const auto part = exchange_->parts.find(client);
    if (part == exchange_->parts.end() || part->second.task != task ||
        part->second.wait != Part::Wait::kAwaited)
      return;
    answer = std::move(waiter->second.answer);
    waiters_.erase(waiter);
    rpc::TaskNotice notice;
    notice.ticket = ticket_of(*exchange_);
    notice.bytes = task->size();
    notice.digest = task->digest();
    notice.max_update_bytes = options_.max_update_bytes;
    reply.next = notice;
    const auto committed = committed_.find(client);
    reply.committed_version = committed == committed_.end() ? 0 : committed->second;
    const auto failure = last_failures_.find(client);
    if (failure != last_failures_.end()) reply.last_failure = failure->second;
  }
  answer(reply);
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
      return part->second.task;
    }
  }
  throw rpc::Refusal(rpc::Refused::kMismatch, "[serve] this task is over; ask for the next");
}

std::unique_ptr<rpc::Upload> NetworkBackend::push(const rpc::Caller& caller,
                                                  const rpc::PushOpen& open,
                                                  rpc::PushReply& reply) {
  std::shared_ptr<Exchange> exchange;
  uint64_t received = 0;
  {
    const std::lock_guard lock(mutex_);
    Session& session = session_of(caller, open.session);
    session.phase = rpc::Phase::kPushing;
    const auto verdict = [&](rpc::Verdict what, const char* detail) {
      reply = {what, 0, {1000, 5000}, detail};
      return nullptr;
    };
    if (!exchange_ || open.ticket.run != options_.run)
      return verdict(rpc::Verdict::kStale, "no such exchange is open");
    const auto found = exchange_->parts.find(caller.client);
    if (found == exchange_->parts.end())
      return verdict(rpc::Verdict::kStale, "this client is not asked in this exchange");
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
    if (open.bytes == 0 || open.bytes > options_.max_update_bytes)
      throw rpc::Refusal(rpc::Refused::kTooMuch,
                         concat("[serve] an update of ", open.bytes, " bytes; at most ",
                                options_.max_update_bytes, " are taken"));
    if (part.uploading || uploads_ >= options_.max_uploads)
      return verdict(rpc::Verdict::kBusy, "too many uploads at a time");
    if (part.update_digest != open.digest || part.update_bytes != open.bytes) {
      part.update_digest = open.digest;
      part.update_bytes = open.bytes;
      part.received = 0;
    }
    part.uploading = true;
    ++uploads_;
    received = part.received;
    exchange = exchange_;
  }
  const fs::path file = file_of(*exchange, caller.client);
  return std::make_unique<Incoming>(*this, caller.client, std::move(exchange), file, open.digest,
                                    received);
}

void NetworkBackend::deliver(uint64_t client, const fs::path& file, uint64_t digest,
                             const std::function<void(rpc::PushReply)>& done) {
  std::shared_ptr<Exchange> exchange;
  {
    const std::lock_guard lock(mutex_);
    exchange = exchange_;
  }
  rpc::PushReply reply{rpc::Verdict::kStale, 0, {}, "the exchange is over"};
  bool failed = true, settled = true;
  std::exception_ptr broken;
  if (exchange) {
    try {
      const Bytes bytes = read_file(file);
      if (rpc::digest64(bytes) != digest) {
        reply = {rpc::Verdict::kBusy, 0, {0, 1000}, "the update arrived damaged; send it again"};
        settled = false;
      } else {
        const wire::EncodedMessage message = wire::read_stream(bytes);
        switch (exchange->traffic->delivered(client, message)) {
          case round::Receipt::kCounted:
            reply = {rpc::Verdict::kAccepted, bytes.size(), {}, ""};
            failed = false;
            break;
          case round::Receipt::kFaulty:
            reply = {rpc::Verdict::kRefused, bytes.size(), {}, "the update is no good"};
            break;
          case round::Receipt::kRefused:
            reply = {rpc::Verdict::kStale, bytes.size(), {}, "nobody waits for it"};
            settled = false;
            break;
        }
      }
    } catch (const StorageError&) {
      broken = std::current_exception();
    } catch (const Error& error) {
      reply = {rpc::Verdict::kRefused, 0, {}, error.what()};
      exchange->traffic->failed(client, error.what());
    }
  }
  std::error_code ignored;
  fs::remove(file, ignored);
  {
    const std::lock_guard lock(mutex_);
    --working_;
    if (broken) broken_ = broken;
    if (exchange) {
      Part& part = exchange->parts.at(client);
      part.received = part.update_bytes = part.update_digest = 0;
      part.task = settled ? nullptr : part.task;
      part.wait = !settled ? Part::Wait::kAwaited
                  : failed ? Part::Wait::kFailed
                           : Part::Wait::kDelivered;
      part.counted_digest = digest;
      if (settled) ++exchange->settled;
      if (failed) {
        last_failures_[client] = reply.detail;
      } else {
        last_failures_.erase(client);
      }
    }
    changed_.notify_all();
  }
  done(reply);
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
    changed_.notify_all();
    return {false, {}};
  }
  if (!exchange_ || !(request.ticket == ticket_of(*exchange_))) return {false, {}};
  const auto found = exchange_->parts.find(caller.client);
  if (found == exchange_->parts.end() || found->second.wait != Part::Wait::kAwaited)
    return {false, {}};
  if (request.phase != rpc::Phase::kFailed) return {true, {}};
  const auto exchange = exchange_;
  found->second.wait = Part::Wait::kFailed;
  ++exchange->settled;
  last_failures_[caller.client] = request.detail;
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

// Waiters whose time is over are told to come back, or that the run has ended.
void NetworkBackend::answer_overdue() {
  std::vector<std::pair<std::function<void(rpc::AwaitReply)>, rpc::AwaitReply>> answers;
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    for (auto waiter = waiters_.begin(); waiter != waiters_.end();) {
      if (waiter->second.until > now) {
        ++waiter;
        continue;
      }
      rpc::AwaitReply reply;
      const auto committed = committed_.find(waiter->second.client);
      if (committed != committed_.end()) reply.committed_version = committed->second;
      if (finished_) {
        reply.next = *finished_;
        const auto session = sessions_.find(waiter->second.client);
        if (session != sessions_.end()) session->second.told_end = true;
      }
      answers.emplace_back(std::move(waiter->second.answer), std::move(reply));
      waiter = waiters_.erase(waiter);
    }
    if (finished_) changed_.notify_all();
  }
  for (auto& [answer, reply] : answers) answer(reply);
}

void NetworkBackend::keep_time() {
  Lock lock(mutex_);
  while (!stopping_) {
    auto next = Clock::now() + std::chrono::seconds(1);
    for (const auto& [ticket, waiter] : waiters_) next = std::min(next, waiter.until);
    if (next > Clock::now()) changed_.wait_until(lock, next);
    lock.unlock();
    answer_overdue();
    lock.lock();
  }
}

}  // namespace espalier::serve
