// Server and Connection against each other on loopback, over TLS as in earnest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <thread>

#include "espalier/base/bytes.h"
#include "espalier/base/test_error.h"
#include "espalier/rpc/certificates.h"
#include "espalier/rpc/connection.h"
#include "espalier/rpc/server.h"

namespace espalier::rpc {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::string kSession(16, 's');

Bytes pattern(size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i * 31 + (i >> 11));
  return bytes;
}

class Memory final : public Download {
 public:
  explicit Memory(Bytes bytes) : bytes_(std::move(bytes)) {}
  uint64_t size() const override { return bytes_.size(); }
  Pieces pieces(uint64_t offset, uint64_t size) const override {
    // In two, the first one small.
    const auto all = std::span(bytes_).subspan(offset, size);
    const size_t first = std::min<size_t>(5, all.size());
    return {all.first(first), all.subspan(first)};
  }

 private:
  Bytes bytes_;
};

// Answers what it is asked, and remembers who asked.
class FakeService final : public Service {
 public:
  Bytes task = pattern(3'000'000), received;
  std::atomic<uint64_t> caller = ~uint64_t{0};
  std::atomic<int> hung_up = 0;
  std::string serial;
  uint64_t refuse_after = ~uint64_t{0};

  CheckInReply check_in(const Caller& from, const CheckInRequest& request) override {
    caller = from.client;
    serial = from.serial;
    if (request.num_samples == 0) throw Refusal(Refused::kMismatch, "no samples");
    CheckInReply reply;
    reply.client = from.client;
    reply.config = std::string(60 << 10, 'c');
    return reply;
  }
  uint64_t await(const Caller&, const AwaitRequest& request,
                 std::function<void(AwaitReply)> answer) override {
    if (request.wait_ms == 0) {
      answer({});
    } else {
      const std::lock_guard lock(mutex);
      waiting.push_back(std::move(answer));
      wake.notify_all();
    }
    return 5;
  }
  void gone(uint64_t ticket) override {
    EXPECT_EQ(ticket, 5U);
    ++hung_up;
  }
  std::shared_ptr<const Download> fetch(const Caller&, const FetchRequest& request) override {
    if (request.ticket.round == 9) throw Refusal(Refused::kPermission, "not yours");
    return std::make_shared<Memory>(task);
  }
  std::unique_ptr<Upload> push(const Caller&, const PushOpen& open, PushReply& reply) override {
    if (open.ticket.round == 9) {
      reply.verdict = Verdict::kStale;
      return nullptr;
    }
    return std::make_unique<Incoming>(*this);
  }
  ReportReply report(const Caller&, const ReportRequest& request) override {
    return {request.phase == Phase::kTraining, {}};
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::function<void(AwaitReply)>> waiting;

 private:
  class Incoming final : public Upload {
   public:
    explicit Incoming(FakeService& service) : service_(service) {}
    uint64_t received() const override { return service_.received.size(); }
    void append(uint64_t, const Pieces& data) override {
      if (service_.received.size() >= service_.refuse_after) {
        service_.refuse_after = ~uint64_t{0};
        throw Refusal(Refused::kLater, "the disk is full");
      }
      for (const auto piece : data)
        service_.received.insert(service_.received.end(), piece.begin(), piece.end());
    }
    void finish(std::function<void(PushReply)> done) override {
      std::thread([done = std::move(done)] {
        done({Verdict::kAccepted, 0, {}, "thanks"});
      }).detach();
    }

   private:
    FakeService& service_;
  };
};

class TransportTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = fs::path(testing::TempDir()) / concat("transport-", ::getpid());
    fs::remove_all(folder_);
    Authority authority = Authority::create(folder_, "garden", {});
    authority.issue(3, 9);
    authority.issue(4, 9);
    Authority::create(folder_ / "other", "garden", {}).issue(3, 9);
    Authority::create(folder_ / "else", "meadow", {});
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static Credentials of_client(const fs::path& pki, uint64_t id) {
    return read_credentials(pki / "ca.pem", pki / concat("clients/client-", id, ".pem"),
                            pki / concat("clients/client-", id, ".key"));
  }
  static Credentials of_server() {
    return read_credentials(folder_ / "ca.pem", folder_ / "server.pem", folder_ / "server.key");
  }
  Server& start(ServerOptions options = {}) {
    options.listen = "127.0.0.1:0";
    options.federation = "garden";
    if (!options.credentials.insecure) options.credentials = of_server();
    return server_.emplace(options, service_);
  }
  std::unique_ptr<Connection> connect(const Credentials& credentials,
                                      const std::string& host = "localhost") {
    ConnectionOptions options;
    options.server = concat(host, ":", server_->port());
    options.credentials = credentials;
    options.insecure_client = 12;
    return std::make_unique<Connection>(options);
  }
  std::unique_ptr<Connection> connect() { return connect(of_client(folder_, 3)); }
  static CheckInRequest hello() {
    CheckInRequest request;
    request.session = kSession;
    request.num_samples = 1;
    return request;
  }

  static inline fs::path folder_;
  FakeService service_;
  std::optional<Server> server_;
};

TEST_F(TransportTest, WhoCallsIsWhoTheCertificateNames) {
  start();
  EXPECT_EQ(connect()->check_in(hello()).client, 3U);
  EXPECT_EQ(connect(of_client(folder_, 4), "127.0.0.1")->check_in(hello()).client, 4U);
  EXPECT_EQ(service_.serial.size() > 8, true);
}

TEST_F(TransportTest, WhoHasNoGoodCertificateGetsNowhere) {
  start();
  const auto outcome = [&](const Credentials& credentials) {
    return error_of([&] { connect(credentials)->check_in(hello()); });
  };
  Credentials stranger = of_client(folder_ / "other", 3);
  stranger.ca = of_client(folder_, 3).ca;  // trusts the server, but is of another CA
  EXPECT_NE(outcome(stranger), "");
  Credentials none = of_client(folder_, 3);
  none.certificate = none.key = "";
  EXPECT_NE(outcome(none), "");
  Credentials distrustful = of_client(folder_, 3);
  distrustful.ca = of_client(folder_ / "other", 3).ca;
  EXPECT_NE(outcome(distrustful), "");
  EXPECT_NE(outcome({.insecure = true, .ca = {}, .certificate = {}, .key = {}}), "");  // plaintext
  // A server's certificate names no client, and may not act as one.
  Credentials server = of_server();
  EXPECT_NE(outcome(server), "");
  EXPECT_EQ(service_.caller, ~uint64_t{0});
}

TEST_F(TransportTest, ARevokedCertificateEndsOpenConnectionsToo) {
  std::atomic<bool> revoked = false;
  ServerOptions options;
  options.revoked = [&](const std::string& serial) { return revoked && !serial.empty(); };
  start(options);
  const auto connection = connect();
  connection->check_in(hello());
  revoked = true;
  try {
    connection->check_in(hello());
    FAIL() << "expected a Refusal";
  } catch (const Refusal& refusal) {
    EXPECT_EQ(refusal.why(), Refused::kIdentity);
    EXPECT_THAT(refusal.what(), HasSubstr("revoked"));
  }
}

// With an RSA suite alone in the list, and no RSA keys, nobody agrees on TLS 1.2.
TEST_F(TransportTest, Tls12IsRefused) {
  Server& server = start();
  const std::string command =
      concat("openssl s_client -connect 127.0.0.1:", server.port(), " -CAfile ",
             (folder_ / "ca.pem").string(), " -cert ", (folder_ / "clients/client-3.pem").string(),
             " -key ", (folder_ / "clients/client-3.key").string(), " -alpn h2 ");
  const auto works = [&](const char* version) {
    return std::system(concat(command, version, " </dev/null >/dev/null 2>&1").c_str()) == 0;
  };
  EXPECT_TRUE(works("-tls1_3"));
  EXPECT_FALSE(works("-tls1_2"));
}

TEST_F(TransportTest, WithoutCertificatesClientsNameThemselves) {
  ServerOptions options;
  options.credentials.insecure = true;
  start(options);
  EXPECT_EQ(
      connect({.insecure = true, .ca = {}, .certificate = {}, .key = {}})->check_in(hello()).client,
      12U);
}

TEST_F(TransportTest, WithoutCertificatesNobodyElseIsCalled) {
  ConnectionOptions options;
  options.credentials.insecure = true;
  options.server = "192.0.2.1:8443";
  EXPECT_THAT(error_of([&] { Connection connection(options); }), HasSubstr("on this machine"));
}

TEST_F(TransportTest, RefusalsKeepTheirReason) {
  start();
  CheckInRequest empty = hello();
  empty.num_samples = 0;
  try {
    connect()->check_in(empty);
    FAIL() << "expected a Refusal";
  } catch (const Refusal& refusal) {
    EXPECT_EQ(refusal.why(), Refused::kMismatch);
    EXPECT_STREQ(refusal.what(), "no samples");
  }
}

TEST_F(TransportTest, ATaskArrivesFromAnyOffset) {
  start();
  const auto connection = connect();
  for (const uint64_t offset : {uint64_t{0}, uint64_t{1'234'567}, uint64_t{3'000'000}}) {
    FetchRequest request;
    request.session = kSession;
    request.offset = offset;
    Bytes got;
    connection->fetch(request, [&](uint64_t at, const Pieces& data) {
      EXPECT_EQ(at, offset + got.size());
      for (const auto piece : data) got.insert(got.end(), piece.begin(), piece.end());
    });
    EXPECT_TRUE(std::equal(got.begin(), got.end(),
                           service_.task.begin() + static_cast<ptrdiff_t>(offset),
                           service_.task.end()));
  }
  FetchRequest behind;
  behind.session = kSession;
  behind.offset = 3'000'001;
  EXPECT_THROW(connection->fetch(behind, [](uint64_t, const Pieces&) {}), Refusal);
  behind.offset = 0;
  behind.ticket.round = 9;
  EXPECT_THROW(connection->fetch(behind, [](uint64_t, const Pieces&) {}), Refusal);
  // A reader that fails ends the call, and the connection goes on.
  FetchRequest again;
  again.session = kSession;
  EXPECT_THROW(connection->fetch(again, [](uint64_t, const Pieces&) { fail("x", "y"); }), Error);
  EXPECT_NO_THROW(connection->check_in(hello()));
}

TEST_F(TransportTest, ChunksAreAsLongAsTheServerSays) {
  const Bytes update = pattern(3'000'000);
  for (const uint32_t chunk : {uint32_t{4} << 10, uint32_t{4} << 20}) {
    ServerOptions options;
    options.chunk_bytes = chunk;
    start(options);
    const auto connection = connect();
    EXPECT_EQ(connection->check_in(hello()).chunk_bytes, chunk);
    size_t longest = 0;
    FetchRequest request;
    request.session = kSession;
    connection->fetch(request, [&](uint64_t, const Pieces& data) {
      size_t size = 0;
      for (const auto piece : data) size += piece.size();
      longest = std::max(longest, size);
    });
    EXPECT_EQ(longest, std::min<size_t>(chunk, service_.task.size()));
    longest = 0;
    service_.received.clear();
    PushOpen open;
    open.session = kSession;
    open.bytes = update.size();
    const auto read = [&](uint64_t offset, std::span<uint8_t> out) {
      std::copy_n(update.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
      longest = std::max(longest, out.size());
    };
    EXPECT_EQ(connection->push(open, read).verdict, Verdict::kAccepted);
    EXPECT_EQ(longest, std::min<size_t>(chunk, update.size()));
    EXPECT_EQ(service_.received, update);
  }
}

TEST_F(TransportTest, AnUpdateGoesOnWhereItWasCut) {
  start();
  const auto connection = connect();
  const Bytes update = pattern(2'000'000);
  PushOpen open;
  open.session = kSession;
  open.bytes = update.size();
  uint64_t sent = 0;
  const auto read = [&](uint64_t offset, std::span<uint8_t> out) {
    std::copy_n(update.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    sent += out.size();
  };
  service_.refuse_after = 1'000'000;
  EXPECT_THROW(connection->push(open, read), Unreachable);
  EXPECT_GE(service_.received.size(), 1'000'000U);
  sent = 0;
  const size_t before = service_.received.size();
  const PushReply reply = connection->push(open, read);
  EXPECT_EQ(reply.verdict, Verdict::kAccepted);
  EXPECT_EQ(reply.detail, "thanks");
  EXPECT_EQ(sent, update.size() - before);
  EXPECT_EQ(service_.received, update);
  open.ticket.round = 9;
  EXPECT_EQ(connection->push(open, read).verdict, Verdict::kStale);
}

TEST_F(TransportTest, SmallUpdatesAndManyOfThem) {
  start();
  const auto connection = connect();
  for (int i = 0; i < 200; ++i) {
    service_.received.clear();
    PushOpen open;
    open.session = kSession;
    open.bytes = static_cast<uint64_t>(1 + i);
    const PushReply reply = connection->push(
        open, [](uint64_t, std::span<uint8_t> out) { std::ranges::fill(out, uint8_t{7}); });
    ASSERT_EQ(reply.verdict, Verdict::kAccepted);
    ASSERT_EQ(service_.received.size(), open.bytes);
  }
}

TEST_F(TransportTest, WaitingEndsWithAnAnswerOrAHangUp) {
  start();
  const auto connection = connect();
  AwaitRequest request;
  request.session = kSession;
  EXPECT_TRUE(std::holds_alternative<RetryWindow>(connection->await(request).next));
  request.wait_ms = 60'000;
  std::thread answers([&] {
    std::unique_lock lock(service_.mutex);
    service_.wake.wait(lock, [&] { return !service_.waiting.empty(); });
    AwaitReply reply;
    reply.next = Finished{true, "over"};
    service_.waiting.front()(reply);
    service_.waiting.front()(reply);  // once too often: nothing happens
    service_.waiting.clear();
  });
  EXPECT_EQ(std::get<Finished>(connection->await(request).next).reason, "over");
  answers.join();

  std::thread hangs_up([&] {
    {
      std::unique_lock lock(service_.mutex);
      service_.wake.wait(lock, [&] { return !service_.waiting.empty(); });
    }
    connection->cancel();
  });
  EXPECT_THROW(connection->await(request), Unreachable);
  hangs_up.join();
  for (int i = 0; i < 1000 && service_.hung_up == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(service_.hung_up, 1);
  const std::lock_guard lock(service_.mutex);
  service_.waiting.front()({});  // too late: nothing happens
}

TEST_F(TransportTest, ATakenPortIsSaid) {
  Server& server = start();
  ServerOptions options;
  options.listen = concat("127.0.0.1:", server.port());
  options.credentials = of_server();
  EXPECT_THAT(error_of([&] { Server second(options, service_); }), HasSubstr("cannot listen on"));
}

TEST_F(TransportTest, NobodyThereIsUnreachable) {
  Server& server = start();
  const auto connection = connect();
  connection->check_in(hello());
  server.stop(0);
  EXPECT_THROW(connection->check_in(hello()), Unreachable);
}

}  // namespace
}  // namespace espalier::rpc
