// Peers that do not keep to the protocol, with good certificates and without.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "espalier/base/test_error.h"
#include "espalier/rpc/certificates.h"
#include "espalier/rpc/connection.h"
#include "espalier/rpc/convert.h"
#include "espalier/rpc/federation.grpc.pb.h"
#include "espalier/rpc/server.h"

namespace espalier::rpc {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Memory final : public Download {
 public:
  explicit Memory(Bytes bytes) : bytes_(std::move(bytes)) {}
  uint64_t size() const override { return bytes_.size(); }
  Pieces pieces(uint64_t offset, uint64_t size) const override {
    return {std::span(bytes_).subspan(offset, size)};
  }

 private:
  Bytes bytes_;
};

// Takes updates of 1,000,000 bytes and remembers what has come.
class Keeper final : public Service {
 public:
  Bytes received, task;
  int finished = 0;

  CheckInReply check_in(const Caller&, const CheckInRequest&) override { return {}; }
  uint64_t await(const Caller&, const AwaitRequest&,
                 std::function<void(AwaitReply)> answer) override {
    answer({});
    return 1;
  }
  void gone(uint64_t) override {}
  std::shared_ptr<const Download> fetch(const Caller&, const FetchRequest&) override {
    if (task.empty()) throw Refusal(Refused::kMismatch, "no task");
    return std::make_shared<Memory>(task);
  }
  std::unique_ptr<Upload> push(const Caller&, const PushOpen& open, PushReply&) override {
    if (open.bytes > 1'000'000) throw Refusal(Refused::kTooMuch, "too long");
    return std::make_unique<Incoming>(*this);
  }
  ReportReply report(const Caller&, const ReportRequest&) override { return {}; }

 private:
  class Incoming final : public Upload {
   public:
    explicit Incoming(Keeper& keeper) : keeper_(keeper) {}
    uint64_t received() const override { return keeper_.received.size(); }
    void append(uint64_t offset, const Pieces& data) override {
      ASSERT_EQ(offset, keeper_.received.size());
      for (const auto piece : data)
        keeper_.received.insert(keeper_.received.end(), piece.begin(), piece.end());
    }
    void finish(std::function<void(PushReply)> done) override {
      ++keeper_.finished;
      done({Verdict::kAccepted, 0, {}, ""});
    }

   private:
    Keeper& keeper_;
  };
};

class Hostile : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    require_tls13();
    folder_ = fs::path(testing::TempDir()) / concat("hostile-", ::getpid());
    fs::remove_all(folder_);
    Authority::create(folder_, "garden", {}).issue(3, 9);
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  Hostile() {
    options_.listen = "127.0.0.1:0";
    options_.federation = "garden";
    options_.credentials =
        read_credentials(folder_ / "ca.pem", folder_ / "server.pem", folder_ / "server.key");
    server_.emplace(options_, keeper_);
    connect();
  }
  void connect() {
    const Credentials mine = read_credentials(folder_ / "ca.pem", folder_ / "clients/client-3.pem",
                                              folder_ / "clients/client-3.key");
    grpc::SslCredentialsOptions ssl{mine.ca, mine.key, mine.certificate};
    channel_ =
        grpc::CreateChannel(concat("localhost:", server_->port()), grpc::SslCredentials(ssl));
    stub_ = v1::Federation::NewStub(channel_);
  }

  static v1::PushPart opening(uint64_t bytes) {
    v1::PushPart part;
    part.mutable_open()->set_bytes(bytes);
    part.mutable_open()->set_session(std::string(16, 's'));
    return part;
  }
  static v1::PushPart chunk(uint64_t offset, const std::string& data) {
    v1::PushPart part;
    part.mutable_chunk()->set_offset(offset);
    part.mutable_chunk()->set_data(data);
    part.mutable_chunk()->set_check(static_cast<uint32_t>(
        digest64({reinterpret_cast<const uint8_t*>(data.data()), data.size()})));
    return part;
  }
  // What becomes of a stream of these parts.
  grpc::Status push(const std::vector<v1::PushPart>& parts) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    const auto stream = stub_->Push(&context);
    for (const v1::PushPart& part : parts)
      if (!stream->Write(part)) break;
    stream->WritesDone();
    v1::PushReply reply;
    while (stream->Read(&reply)) {
    }
    return stream->Finish();
  }

  static inline fs::path folder_;
  ServerOptions options_;
  Keeper keeper_;
  std::optional<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Federation::Stub> stub_;
};

TEST_F(Hostile, ChunksThatDoNotFollowEachOtherAreRefused) {
  const std::string data(1000, 'x');
  using grpc::StatusCode;
  EXPECT_EQ(push({chunk(0, data)}).error_code(), StatusCode::INVALID_ARGUMENT) << "no opening";
  EXPECT_EQ(push({opening(5000), opening(5000)}).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(push({opening(5000), chunk(1, data)}).error_code(), StatusCode::INVALID_ARGUMENT)
      << "a gap";
  EXPECT_EQ(push({opening(5000), chunk(0, data), chunk(500, data)}).error_code(),
            StatusCode::INVALID_ARGUMENT)
      << "an overlap";
  EXPECT_EQ(push({opening(5000), chunk(1000, data), chunk(0, data)}).error_code(),
            StatusCode::INVALID_ARGUMENT)
      << "rewound";
  EXPECT_EQ(push({opening(5000), chunk(2000, "")}).error_code(), StatusCode::INVALID_ARGUMENT)
      << "empty";
  EXPECT_EQ(push({opening(2500), chunk(2000, data)}).error_code(), StatusCode::INVALID_ARGUMENT)
      << "too many";
  v1::PushPart damaged = chunk(2000, data);
  damaged.mutable_chunk()->set_check(1);
  EXPECT_EQ(push({opening(5000), damaged}).error_code(), StatusCode::UNAVAILABLE)
      << "to be sent again";
  EXPECT_EQ(push({opening(2'000'000)}).error_code(), StatusCode::RESOURCE_EXHAUSTED);
  // What was good stays, and the upload goes on from there.
  EXPECT_EQ(keeper_.received.size(), 2000U);
  EXPECT_EQ(keeper_.finished, 0);
  EXPECT_TRUE(push({opening(3000), chunk(2000, data)}).ok());
  EXPECT_EQ(keeper_.finished, 1);
}

TEST_F(Hostile, MessagesBeyondTheLimitsAreNotTaken) {
  // A chunk is at most 256 KiB; nothing longer is even read.
  EXPECT_EQ(push({opening(1'000'000), chunk(0, std::string(400'000, 'x'))}).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(keeper_.received.empty());
  v1::CheckInRequest request;
  request.set_session(std::string(16, 's'));
  request.mutable_device()->set_profile(std::string(100'000, 'p'));
  v1::CheckInReply reply;
  grpc::ClientContext long_name;
  EXPECT_EQ(stub_->CheckIn(&long_name, request, &reply).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_device()->clear_profile();
  grpc::ClientContext metadata;
  metadata.AddMetadata("x-much", std::string(20'000, 'm'));
  EXPECT_FALSE(stub_->CheckIn(&metadata, request, &reply).ok());
  // The connection may be closed over it while the next call is on its way: as clients do, it is
  // made again.
  grpc::Status status;
  for (int attempt = 0; attempt < 20; ++attempt) {
    grpc::ClientContext good;
    good.set_wait_for_ready(true);
    good.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    status = stub_->CheckIn(&good, request, &reply);
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) break;
  }
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(Hostile, WhoChecksInAgainAndAgainIsToldToComeLater) {
  v1::CheckInRequest request;
  request.set_session(std::string(16, 's'));
  v1::CheckInReply reply;
  int taken = 0;
  grpc::Status last;
  for (int i = 0; i < 8; ++i) {
    grpc::ClientContext context;
    last = stub_->CheckIn(&context, request, &reply);
    taken += last.ok();
  }
  EXPECT_GE(taken, 5);
  EXPECT_LT(taken, 8);
  EXPECT_EQ(last.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(Hostile, WhoHoldsAStreamWithoutMovingItIsCutOff) {
  ServerOptions options = options_;
  options.stall_s = 0.5;
  server_.reset();
  server_.emplace(options, keeper_);
  connect();
  keeper_.task = Bytes(64 << 20);  // more than windows and buffers hold
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(30);
  // An opening, and then nothing.
  grpc::ClientContext pushing;
  pushing.set_deadline(deadline);
  const auto push = stub_->Push(&pushing);
  ASSERT_TRUE(push->Write(opening(5000)));
  v1::PushReply more;
  EXPECT_TRUE(push->Read(&more));
  EXPECT_FALSE(push->Read(&more));
  EXPECT_EQ(push->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // A task that nobody reads.
  grpc::ClientContext fetching;
  fetching.set_deadline(deadline);
  v1::FetchRequest request;
  request.set_session(std::string(16, 's'));
  const auto fetch = stub_->Fetch(&fetching, request);
  std::this_thread::sleep_for(std::chrono::seconds(2));
  v1::Chunk got;
  uint64_t read = 0;
  while (fetch->Read(&got)) read += got.data().size();
  EXPECT_EQ(fetch->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_LT(read, keeper_.task.size());
  // One that is read slowly, but read, comes whole.
  grpc::ClientContext slowly;
  slowly.set_deadline(deadline);
  keeper_.task.resize(4 << 20);
  const auto slow = stub_->Fetch(&slowly, request);
  read = 0;
  while (slow->Read(&got)) {
    read += got.data().size();
    std::this_thread::sleep_for(std::chrono::milliseconds(80));
  }
  EXPECT_TRUE(slow->Finish().ok());
  EXPECT_EQ(read, keeper_.task.size());
}

TEST_F(Hostile, ACertificateWithTwoNamesNamesNobody) {
  const std::string request = (folder_ / "two.csr").string(), key = (folder_ / "two.key").string(),
                    certificate = (folder_ / "two.pem").string(),
                    names = (folder_ / "two.cnf").string();
  std::ofstream(names)
      << "subjectAltName=URI:espalier://garden/client/3,URI:espalier://garden/client/4\n"
      << "extendedKeyUsage=clientAuth\n";
  const std::string command = concat(
      "umask 077; openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ",
      key, " -subj /CN=two -out ", request, " 2>/dev/null && openssl x509 -req -in ", request,
      " -CA ", (folder_ / "ca.pem").string(), " -CAkey ", (folder_ / "ca.key").string(),
      " -days 5 -extfile ", names, " -out ", certificate, " 2>/dev/null");
  ASSERT_EQ(std::system(command.c_str()), 0);
  ConnectionOptions options;
  options.server = concat("localhost:", server_->port());
  options.credentials = read_credentials(folder_ / "ca.pem", certificate, key);
  Connection connection(options);
  CheckInRequest hello;
  hello.session = std::string(16, 's');
  EXPECT_THAT(error_of([&] { connection.check_in(hello); }), HasSubstr("one name"));
}

// Connections on which nobody speaks hold nobody up, and are ended.
TEST_F(Hostile, HalfOpenHandshakesHoldNobodyUp) {
  constexpr int kSilent = 300;
  std::vector<int> sockets;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(server_->port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < kSilent; ++i) {
    sockets.push_back(::socket(AF_INET, SOCK_STREAM, 0));
    ASSERT_EQ(::connect(sockets.back(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    // Every other one has begun and goes no further; plain text is no handshake either.
    if (i % 2 == 0) {
      ASSERT_EQ(::send(sockets.back(), "\x16\x03\x01", 3, MSG_NOSIGNAL), 3);
    }
  }
  v1::CheckInRequest request;
  request.set_session(std::string(16, 's'));
  v1::CheckInReply reply;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  EXPECT_TRUE(stub_->CheckIn(&context, request, &reply).ok());
  const timeval patience{15, 0};
  ::setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  char byte = 0;
  EXPECT_EQ(::recv(sockets[0], &byte, 1, 0), 0) << "ended within the handshake's time";
  for (const int socket : sockets) ::close(socket);
}

}  // namespace
}  // namespace espalier::rpc
