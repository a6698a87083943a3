#include "espalier/rpc/server.h"

#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>

#include "espalier/rpc/call_limits.h"
#include "espalier/rpc/channel_arguments.h"
#include "espalier/rpc/convert.h"
#include "espalier/rpc/federation.grpc.pb.h"
#include "espalier/rpc/identity.h"

namespace espalier::rpc {

namespace {

grpc::Status status_of(const Refusal& refusal) {
  const auto code = [&] {
    switch (refusal.why()) {
      case Refused::kIdentity:
        return grpc::StatusCode::UNAUTHENTICATED;
      case Refused::kPermission:
        return grpc::StatusCode::PERMISSION_DENIED;
      case Refused::kInvalid:
        return grpc::StatusCode::INVALID_ARGUMENT;
      case Refused::kConflict:
        return grpc::StatusCode::ALREADY_EXISTS;
      case Refused::kMismatch:
        return grpc::StatusCode::FAILED_PRECONDITION;
      case Refused::kTooMuch:
        return grpc::StatusCode::RESOURCE_EXHAUSTED;
      case Refused::kLater:
        break;
    }
    return grpc::StatusCode::UNAVAILABLE;
  };
  return {code(), refusal.what()};
}

// Runs what a call asks for; what it throws becomes a status.
template <class Work>
grpc::Status guarded(Work&& work) {
  try {
    work();
    return grpc::Status::OK;
  } catch (const Refusal& refusal) {
    return status_of(refusal);
  } catch (const Error& error) {
    return {grpc::StatusCode::INTERNAL, error.what()};
  } catch (const std::exception& error) {
    return {grpc::StatusCode::INTERNAL, error.what()};
  }
}

// Ends a call once, whoever comes first: an answer or the client's hanging up.
class Ending {
 public:
  bool first() { return !ended_.exchange(true); }

 private:
  std::atomic<bool> ended_ = false;
};

class AwaitCall final : public grpc::ServerUnaryReactor {
 public:
  AwaitCall(Service& service, v1::AwaitReply& reply) : service_(service), reply_(reply) {}

  void start(const Caller& caller, const AwaitRequest& request) {
    // The answer may come before await() returns, and this object may then be gone.
    const auto ending = ending_;
    const auto gate = gate_;
    Service& service = service_;
    try {
      const uint64_t ticket =
          service.await(caller, request, [this, ending](const AwaitReply& answer) {
            if (!ending->first()) return;
            reply_ = to_proto(answer);
            Finish(grpc::Status::OK);
          });
      bool hung_up = false;
      {
        const std::lock_guard lock(gate->mutex);
        gate->ticket = ticket;
        hung_up = gate->cancelled;
      }
      if (hung_up) service.gone(ticket);
    } catch (const Refusal& refusal) {
      if (ending->first()) Finish(status_of(refusal));
    }
  }
  void OnCancel() override {
    std::optional<uint64_t> ticket;
    {
      const std::lock_guard lock(gate_->mutex);
      gate_->cancelled = true;
      ticket = gate_->ticket;
    }
    if (ticket) service_.gone(*ticket);
    if (ending_->first()) Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  struct Gate {
    std::mutex mutex;
    std::optional<uint64_t> ticket;
    bool cancelled = false;
  };
  Service& service_;
  v1::AwaitReply& reply_;
  std::shared_ptr<Ending> ending_ = std::make_shared<Ending>();
  std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
};

class FetchCall final : public grpc::ServerWriteReactor<v1::Chunk> {
 public:
  FetchCall(std::shared_ptr<const Download> download, uint64_t offset, uint32_t chunk_bytes)
      : download_(std::move(download)), offset_(offset), chunk_bytes_(chunk_bytes) {}
  explicit FetchCall(const grpc::Status& refused) { Finish(refused); }

  void next() {
    const uint64_t left = download_->size() - offset_;
    if (left == 0) {
      Finish(grpc::Status::OK);
      return;
    }
    const auto size = static_cast<size_t>(std::min<uint64_t>(left, chunk_bytes_));
    std::string& data = *chunk_.mutable_data();
    data.resize(size);
    const std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(data.data()), size);
    download_->read(offset_, bytes);
    chunk_.set_offset(offset_);
    chunk_.set_check(checksum32(bytes));
    offset_ += size;
    StartWrite(&chunk_);
  }
  void OnWriteDone(bool sent) override {
    if (sent) {
      next();
    } else {
      Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }

 private:
  std::shared_ptr<const Download> download_;
  uint64_t offset_ = 0;
  uint32_t chunk_bytes_ = 0;
  v1::Chunk chunk_;
};

// Reads the opening and then chunks, one at a time and only when the last one is put away.
class PushCall final : public grpc::ServerBidiReactor<v1::PushPart, v1::PushReply> {
 public:
  PushCall(Service& service, Caller caller, uint32_t chunk_bytes)
      : service_(service), caller_(std::move(caller)), chunk_bytes_(chunk_bytes) {
    StartRead(&part_);
  }
  explicit PushCall(Service& service, const grpc::Status& refused) : service_(service) {
    shared_->ended = true;
    Finish(refused);
  }

  void OnReadDone(bool read) override {
    if (!read) {
      // The client has closed its side; it may still wait for the verdict.
      if (!finishing_) end(grpc::Status(grpc::StatusCode::CANCELLED, "the update is not whole"));
      return;
    }
    const grpc::Status status = guarded([&] { take(); });
    if (!status.ok()) end(status);
  }
  void OnWriteDone(bool written) override {
    if (!written) {
      end(grpc::Status::CANCELLED);
      return;
    }
    const std::lock_guard lock(shared_->mutex);
    shared_->writing = false;
    finish_if_ready();
  }
  void OnCancel() override { end(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  // What the verdict's thread and gRPC's share; the call itself may be gone by then.
  struct Shared {
    std::mutex mutex;
    bool ended = false, writing = false, has_verdict = false;
    v1::PushReply verdict;
  };

  void take() {
    if (!opened_) {
      if (!part_.has_open()) throw Refusal(Refused::kInvalid, "[rpc] expected an opening");
      opened_ = true;
      const PushOpen open = from_proto(part_.open());
      bytes_ = open.bytes;
      PushReply reply;
      upload_ = service_.push(caller_, open, reply);
      if (!upload_) {
        finishing_ = true;
        answer(reply);
        return;
      }
      reply.verdict = Verdict::kMore;
      reply.received = upload_->received();
      more_ = to_proto(reply);
      {
        const std::lock_guard lock(shared_->mutex);
        if (shared_->ended) return;
        shared_->writing = true;
      }
      StartWrite(&more_);
    } else {
      if (!part_.has_chunk()) throw Refusal(Refused::kInvalid, "[rpc] expected a chunk");
      const v1::Chunk& chunk = part_.chunk();
      const std::span<const uint8_t> data(reinterpret_cast<const uint8_t*>(chunk.data().data()),
                                          chunk.data().size());
      const uint64_t received = upload_->received();
      if (chunk.offset() != received || data.empty() || data.size() > chunk_bytes_ ||
          data.size() > bytes_ - received) {
        throw Refusal(Refused::kInvalid,
                      concat("[rpc] a chunk of ", data.size(), " bytes at ", chunk.offset(),
                             " where ", received, " of ", bytes_, " are here"));
      }
      if (checksum32(data) != chunk.check())
        throw Refusal(Refused::kLater, "[rpc] a chunk is damaged; send it again");
      upload_->append(received, data);
    }
    if (upload_->received() == bytes_) {
      finishing_ = true;
      const auto shared = shared_;
      upload_->finish([this, shared](const PushReply& reply) {
        const std::lock_guard lock(shared->mutex);
        if (shared->ended) return;
        // Not ended: this object is alive until it is.
        shared->verdict = to_proto(reply);
        shared->has_verdict = true;
        if (shared->writing) return;
        shared->ended = true;
        StartWriteAndFinish(&shared->verdict, {}, grpc::Status::OK);
      });
      return;
    }
    StartRead(&part_);
  }
  void answer(const PushReply& reply) {
    const std::lock_guard lock(shared_->mutex);
    shared_->verdict = to_proto(reply);
    shared_->has_verdict = true;
    finish_if_ready();
  }
  // With the shared mutex held.
  void finish_if_ready() {
    if (shared_->ended || shared_->writing || !shared_->has_verdict) return;
    shared_->ended = true;
    StartWriteAndFinish(&shared_->verdict, {}, grpc::Status::OK);
  }
  void end(const grpc::Status& status) {
    {
      const std::lock_guard lock(shared_->mutex);
      if (shared_->ended) return;
      shared_->ended = true;
    }
    Finish(status);
  }

  Service& service_;
  Caller caller_;
  uint32_t chunk_bytes_ = 0;
  v1::PushPart part_;
  v1::PushReply more_;
  std::unique_ptr<Upload> upload_;
  uint64_t bytes_ = 0;
  bool opened_ = false, finishing_ = false;
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

class Calls final : public v1::Federation::CallbackService {
 public:
  Calls(const ServerOptions& options, rpc::Service& service)
      : options_(options),
        service_(service),
        identities_(options),
        check_ins_(options.checkins_per_s, std::max(1.0, 5 * options.checkins_per_s)),
        calls_(options.calls_per_s, std::max(1.0, 5 * options.calls_per_s)) {}

  grpc::ServerUnaryReactor* CheckIn(grpc::CallbackServerContext* context,
                                    const v1::CheckInRequest* request,
                                    v1::CheckInReply* reply) override {
    return unary(context, [&](const Caller& caller) {
      if (!check_ins_.allow(caller.client))
        throw Refusal(Refused::kTooMuch, "[rpc] too many check-ins; come later");
      *reply = to_proto(service_.check_in(caller, from_proto(*request)));
    });
  }
  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context,
                                   const v1::ReportRequest* request,
                                   v1::ReportReply* reply) override {
    return unary(context, [&](const Caller& caller) {
      *reply = to_proto(service_.report(caller, from_proto(*request)));
    });
  }
  grpc::ServerUnaryReactor* Await(grpc::CallbackServerContext* context,
                                  const v1::AwaitRequest* request, v1::AwaitReply* reply) override {
    Caller caller;
    AwaitRequest plain;
    const grpc::Status status = guarded([&] {
      caller = known(*context);
      plain = from_proto(*request);
    });
    if (!status.ok()) {
      auto* refused = context->DefaultReactor();
      refused->Finish(status);
      return refused;
    }
    auto* call = new AwaitCall(service_, *reply);
    call->start(caller, plain);
    return call;
  }
  grpc::ServerWriteReactor<v1::Chunk>* Fetch(grpc::CallbackServerContext* context,
                                             const v1::FetchRequest* request) override {
    std::shared_ptr<const Download> download;
    uint64_t offset = 0;
    const grpc::Status status = guarded([&] {
      const FetchRequest plain = from_proto(*request);
      download = service_.fetch(known(*context), plain);
      offset = plain.offset;
      if (offset > download->size())
        throw Refusal(Refused::kInvalid, "[rpc] an offset behind the end of the task");
    });
    if (!status.ok()) return new FetchCall(status);
    auto* call = new FetchCall(std::move(download), offset, options_.chunk_bytes);
    call->next();
    return call;
  }
  grpc::ServerBidiReactor<v1::PushPart, v1::PushReply>* Push(
      grpc::CallbackServerContext* context) override {
    Caller caller;
    const grpc::Status status = guarded([&] { caller = known(*context); });
    if (!status.ok()) return new PushCall(service_, status);
    return new PushCall(service_, std::move(caller), options_.chunk_bytes);
  }

 private:
  template <class Work>
  grpc::ServerUnaryReactor* unary(grpc::CallbackServerContext* context, Work&& work) {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(guarded([&] { work(known(*context)); }));
    return reactor;
  }
  // Who calls, unless it calls too often.
  Caller known(const grpc::CallbackServerContext& context) {
    Caller caller = identities_.of(context);
    if (!calls_.allow(caller.client))
      throw Refusal(Refused::kTooMuch, "[rpc] too many calls; come later");
    return caller;
  }

  const ServerOptions& options_;
  rpc::Service& service_;
  Identities identities_;
  CallLimits check_ins_, calls_;
};

}  // namespace

struct Server::Impl {
  Impl(const ServerOptions& given, rpc::Service& service)
      : options(given), calls(options, service) {}
  const ServerOptions options;
  Calls calls;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

Server::Server(const ServerOptions& options, rpc::Service& service) {
  require_tls13();
  impl_ = std::make_unique<Impl>(options, service);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, server_credentials(options.credentials), &impl_->port);
  builder.RegisterService(&impl_->calls);
  grpc::ResourceQuota quota("espalier");
  quota.Resize(static_cast<size_t>(options.memory_bytes));
  builder.SetResourceQuota(quota);
  set_server_arguments(options, builder);
  impl_->server = builder.BuildAndStart();
  if (!impl_->server || impl_->port == 0) {
    fail(
        "serve", "cannot listen on ", options.listen,
        ": the port is taken, the address is not this machine's, or the certificate and key do not "
        "work; choose another server.listen");
  }
}

Server::~Server() {
  if (impl_) stop(0);
}

uint16_t Server::port() const { return static_cast<uint16_t>(impl_->port); }

void Server::stop(uint32_t grace_ms) {
  if (!impl_->server) return;
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(grace_ms));
  impl_->server->Wait();
}

}  // namespace espalier::rpc
