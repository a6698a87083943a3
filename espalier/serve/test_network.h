#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <optional>

#include "espalier/base/test_error.h"
#include "espalier/serve/network_backend.h"

// A server without a network: the test plays its round and its clients.
namespace espalier::serve {

// A round that takes what it gets.
class FakeTraffic final : public round::RoundTraffic {
 public:
  round::ExchangeId id() const override { return {3, 0, kind}; }
  wire::EncodedMessage task(uint64_t client) override {
    const std::lock_guard lock(mutex);
    ++asked[client];
    if (client == 9) fail("test", "no task");
    wire::EncodedMessage message;
    message.head = {1, 2, static_cast<uint8_t>(client)};
    if (salt != 0) message.head.push_back(salt);
    message.bodies.push_back(std::make_shared<Bytes>(1000, uint8_t{5}));
    return message;
  }
  round::Receipt delivered(uint64_t client, const wire::EncodedMessage& update) override {
    const std::lock_guard lock(mutex);
    updates[client] = update.head;
    return update.head == Bytes{0} ? round::Receipt::kFaulty : round::Receipt::kCounted;
  }
  void failed(uint64_t client, const std::string& reason) override {
    const std::lock_guard lock(mutex);
    failures[client] = reason;
  }
  uint8_t salt = 0;
  wire::TaskKind kind = wire::TaskKind::kTrain;
  std::mutex mutex;
  std::map<uint64_t, int> asked;
  std::map<uint64_t, Bytes> updates;
  std::map<uint64_t, std::string> failures;
};

// One client, played by the test.
class Player {
 public:
  Player(NetworkBackend& backend, uint64_t id, char session = 'a')
      : backend_(backend), caller_{id, "", ""}, session_(16, session) {}

  rpc::CheckInRequest hello(uint64_t samples = 10) const {
    rpc::CheckInRequest request;
    request.version.task_format = 4;
    request.version.codec_format = 1;
    request.data.sample_shape = {2};
    request.data.num_classes = 3;
    request.num_samples = samples;
    request.session = session_;
    return request;
  }
  rpc::CheckInReply check_in(uint64_t samples = 10) {
    return backend_.check_in(caller_, hello(samples));
  }
  std::future<rpc::AwaitReply> wait(uint32_t ms = 20'000) {
    auto promise = std::make_shared<std::promise<rpc::AwaitReply>>();
    auto future = promise->get_future();
    backend_.await(caller_, {0, session_, ms},
                   [promise](const rpc::AwaitReply& reply) { promise->set_value(reply); });
    return future;
  }
  rpc::TaskNotice task() { return std::get<rpc::TaskNotice>(wait().get().next); }
  std::shared_ptr<const rpc::Download> download(const rpc::TaskNotice& task) {
    return backend_.fetch(caller_, {task.ticket, session_, task.digest, 0});
  }
  Bytes fetch(const rpc::TaskNotice& task) {
    const auto download = this->download(task);
    Bytes bytes(download->size());
    // In odd pieces, across the borders of head and body.
    for (size_t at = 0; at < bytes.size();) {
      const size_t count = std::min<size_t>(7, bytes.size() - at);
      for (const auto piece : download->pieces(at, count)) {
        std::ranges::copy(piece, bytes.begin() + static_cast<ptrdiff_t>(at));
        at += piece.size();
      }
    }
    return bytes;
  }
  static Bytes update(uint8_t what) {
    wire::EncodedMessage message;
    message.head = {what};
    message.bodies.push_back(std::make_shared<Bytes>(100, what));
    return wire::write_stream(message);
  }
  rpc::PushOpen open(const rpc::TaskNotice& task, const Bytes& update) const {
    return {task.ticket, session_, task.digest, update.size(), digest64(update)};
  }
  // As much of it as `until` says, from where the server is.
  rpc::PushReply push(const rpc::PushOpen& open, const Bytes& update, size_t until = SIZE_MAX) {
    rpc::PushReply reply;
    const auto upload = backend_.push(caller_, open, reply);
    if (!upload) return reply;
    resumed_at = upload->received();
    const size_t end = std::min(until, update.size());
    while (upload->received() < end) {
      const uint64_t at = upload->received();
      upload->append(at, {std::span(update).subspan(at, std::min<size_t>(10, end - at))});
    }
    if (end < update.size()) return reply;
    std::promise<rpc::PushReply> promise;
    upload->finish([&](const rpc::PushReply& verdict) { promise.set_value(verdict); });
    return promise.get_future().get();
  }
  rpc::ReportReply report(const rpc::Ticket& ticket, rpc::Phase phase,
                          const std::string& why = "") {
    return backend_.report(caller_, {ticket, session_, phase, 0, why});
  }
  uint64_t resumed_at = 0;

 private:
  NetworkBackend& backend_;
  rpc::Caller caller_;
  std::string session_;
};

class NetworkBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    NetworkOptions& options = options_;
    options.run = 77;
    options.num_clients = 10;
    options.version = {rpc::kProtocol, 4, 1, "test"};
    options.folder = folder_;
    options.workers = 2;
    options.lease_ms = 5000;
    options.max_update_bytes = 10'000;
    tune(options);
    backend_.emplace(options);
    rpc::DataSpec data;
    data.sample_shape = {2};
    data.num_classes = 3;
    backend_->describe(data);
  }
  void TearDown() override {
    backend_.reset();
    std::filesystem::remove_all(folder_);
  }
  virtual void tune(NetworkOptions&) {}
  NetworkOptions options_;
  // A server that starts again in the same folder.
  void restart() {
    backend_.reset();
    traffic_.updates.clear();
    traffic_.failures.clear();
    backend_.emplace(options_);
    rpc::DataSpec data;
    data.sample_shape = {2};
    data.num_classes = 3;
    backend_->describe(data);
  }
  // The exchange runs in a thread of its own until everybody has answered.
  std::future<void> exchange(std::vector<uint64_t> clients) {
    return std::async(std::launch::async, [this, clients] { backend_->run(clients, traffic_); });
  }
  static std::string refusal(const std::function<void()>& work) { return error_of(work); }

  volatile std::sig_atomic_t stop_now_ = 0;
  const std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) / concat("backend-", ::getpid());
  FakeTraffic traffic_;
  std::optional<NetworkBackend> backend_;
};

}  // namespace espalier::serve
