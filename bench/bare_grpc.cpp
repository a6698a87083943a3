#include "bench/bare_grpc.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/rpc/channel_arguments.h"
#include "espalier/rpc/server.h"

namespace espalier::bench {

namespace {

constexpr size_t kChunk = 256 << 10;

grpc::ByteBuffer piece(size_t size) {
  static const std::vector<uint8_t> data(kChunk, uint8_t{7});
  const grpc::Slice slice(data.data(), size, grpc::Slice::STATIC_SLICE);
  return {&slice, 1};
}

class Reactor final : public grpc::ServerGenericBidiReactor {
 public:
  Reactor(bool down, size_t bytes) : left_(bytes) {
    if (down) {
      write();
    } else {
      StartRead(&message_);
    }
  }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartRead(&message_);
    } else {
      Finish(grpc::Status::OK);
    }
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      write();
    } else {
      Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }

 private:
  void write() {
    if (left_ == 0) {
      Finish(grpc::Status::OK);
      return;
    }
    const size_t size = std::min(left_, kChunk);
    left_ -= size;
    message_ = piece(size);
    StartWrite(&message_);
  }
  size_t left_;
  grpc::ByteBuffer message_;
};

class Generic final : public grpc::CallbackGenericService {
 public:
  explicit Generic(size_t down) : down_(down) {}
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Reactor(context->method() == "/bare/Down", down_);
  }

 private:
  size_t down_;
};

// One call from its start to its end; true when all went well.
bool call(grpc::GenericStub& stub, const char* method, size_t up) {
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto stream = stub.PrepareCall(&context, method, &queue);
  const auto wait = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  stream->StartCall(nullptr);
  bool good = wait();
  while (good && up > 0) {
    const size_t size = std::min(up, kChunk);
    stream->Write(piece(size), nullptr);
    good = wait();
    up -= size;
  }
  stream->WritesDone(nullptr);
  wait();
  grpc::ByteBuffer message;
  do {
    message.Clear();
    stream->Read(&message, nullptr);
  } while (wait());
  grpc::Status status;
  stream->Finish(&status, nullptr);
  wait();
  queue.Shutdown();
  wait();
  return good && status.ok();
}

}  // namespace

struct BareServer::Impl {
  explicit Impl(size_t down) : service(down) {}
  Generic service;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

BareServer::BareServer(const rpc::Credentials& credentials, size_t down)
    : impl_(std::make_unique<Impl>(down)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", rpc::server_credentials(credentials), &impl_->port);
  builder.RegisterCallbackGenericService(&impl_->service);
  rpc::set_server_arguments({}, builder);
  impl_->server = builder.BuildAndStart();
  if (!impl_->server) fail("bench", "cannot listen");
}

BareServer::~BareServer() {
  impl_->server->Shutdown(std::chrono::system_clock::now());
  impl_->server->Wait();
}

uint16_t BareServer::port() const { return static_cast<uint16_t>(impl_->port); }

void bare_client(uint16_t port, const rpc::Credentials& credentials, size_t up,
                 std::barrier<>& together) {
  const rpc::ServerOptions as_ours;
  grpc::GenericStub stub(
      grpc::CreateCustomChannel(concat("localhost:", port), rpc::client_credentials(credentials),
                                rpc::client_arguments(as_ours.window_bytes, as_ours.keepalive_ms)));
  const bool connected = call(stub, "/bare/Up", 0);
  together.arrive_and_wait();
  if (!connected || !call(stub, "/bare/Down", 0) || !call(stub, "/bare/Up", up))
    fail("bench", "bare gRPC: a call failed");
}

}  // namespace espalier::bench
