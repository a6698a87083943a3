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
#include "espalier/rpc/chunks.h"
#include "espalier/rpc/convert.h"
#include "espalier/rpc/federation.grpc.pb.h"
#include "espalier/rpc/identity.h"
#include "espalier/rpc/stalls.h"

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

// A stream that is ended when it does not move.
class Watched {
 public:
  Watched() = default;
  Watched(Stalls& stalls, grpc::CallbackServerContext& context)
      : stalls_(&stalls), number_(stalls.watch([&context] { context.TryCancel(); })) {}
  ~Watched() { forget(); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
  void moved() {
    if (stalls_ != nullptr) stalls_->moved(number_);
  }
  void forget() {
    if (stalls_ != nullptr) stalls_->forget(number_);
    stalls_ = nullptr;
  }

 private:
  Stalls* stalls_ = nullptr;
  uint64_t number_ = 0;
};

class FetchCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  FetchCall(std::shared_ptr<const Download> download, uint64_t offset, uint32_t chunk_bytes,
            Stalls& stalls, grpc::CallbackServerContext& context)
      : download_(std::move(download)),
        offset_(offset),
        chunk_bytes_(chunk_bytes),
        watched_(stalls, context) {}
  explicit FetchCall(const grpc::Status& refused) { Finish(refused); }

  void next() {
    const uint64_t left = download_->size() - offset_;
    if (left == 0) {
      Finish(grpc::Status::OK);
      return;
    }
    const uint64_t size = std::min<uint64_t>(left, chunk_bytes_);
    chunk_ = write_chunk(offset_, download_->pieces(offset_, size), download_);
    offset_ += size;
    StartWrite(&chunk_);
  }
  void OnWriteDone(bool sent) override {
    if (sent) {
      watched_.moved();
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
  Watched watched_;
  grpc::ByteBuffer chunk_;
};

// Reads the opening and then chunks, one at a time and only when the last one is put away.
class PushCall final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  PushCall(Service& service, Caller caller, uint32_t chunk_bytes, Stalls& stalls,
           grpc::CallbackServerContext& context)
      : service_(service),
        caller_(std::move(caller)),
        chunk_bytes_(chunk_bytes),
        watched_(stalls, context) {
    StartRead(&buffer_);
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
    grpc::ByteBuffer verdict;
  };

  void take() {
    bool is_open = false;
    v1::PushOpen proto;
    ChunkView chunk;
    if (!read_push_part(buffer_, is_open, proto, chunk))
      throw Refusal(Refused::kInvalid, "[rpc] no part of an update");
    if (!opened_) {
      if (!is_open) throw Refusal(Refused::kInvalid, "[rpc] expected an opening");
      opened_ = true;
      const PushOpen open = from_proto(proto);
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
      more_ = write_proto(to_proto(reply));
      {
        const std::lock_guard lock(shared_->mutex);
        if (shared_->ended) return;
        shared_->writing = true;
      }
      StartWrite(&more_);
    } else {
      if (is_open) throw Refusal(Refused::kInvalid, "[rpc] expected a chunk");
      const uint64_t received = upload_->received();
      if (chunk.offset != received || chunk.size == 0 || chunk.size > chunk_bytes_ ||
          chunk.size > bytes_ - received) {
        throw Refusal(Refused::kInvalid,
                      concat("[rpc] a chunk of ", chunk.size, " bytes at ", chunk.offset, " where ",
                             received, " of ", bytes_, " are here"));
      }
      if (!chunk.intact())
        throw Refusal(Refused::kLater, "[rpc] a chunk is damaged; send it again");
      upload_->append(received, chunk.pieces);
      watched_.moved();
    }
    if (upload_->received() == bytes_) {
      finishing_ = true;
      watched_.forget();  // now it waits for us
      const auto shared = shared_;
      upload_->finish([this, shared](const PushReply& reply) {
        const std::lock_guard lock(shared->mutex);
        if (shared->ended) return;
        // Not ended: this object is alive until it is.
        shared->verdict = write_proto(to_proto(reply));
        shared->has_verdict = true;
        if (shared->writing) return;
        shared->ended = true;
        StartWriteAndFinish(&shared->verdict, {}, grpc::Status::OK);
      });
      return;
    }
    StartRead(&buffer_);
  }
  void answer(const PushReply& reply) {
    const std::lock_guard lock(shared_->mutex);
    shared_->verdict = write_proto(to_proto(reply));
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
  grpc::ByteBuffer buffer_, more_;
  std::unique_ptr<Upload> upload_;
  Watched watched_;
  uint64_t bytes_ = 0;
  bool opened_ = false, finishing_ = false;
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

// Bulk comes and goes as gRPC holds it, everything else as messages.
using Methods = v1::Federation::WithCallbackMethod_CheckIn<v1::Federation::WithCallbackMethod_Await<
    v1::Federation::WithRawCallbackMethod_Fetch<v1::Federation::WithRawCallbackMethod_Push<
        v1::Federation::WithCallbackMethod_Report<v1::Federation::Service>>>>>;

class Calls final : public Methods {
 public:
  Calls(const ServerOptions& options, rpc::Service& service)
      : options_(options),
        service_(service),
        identities_(options),
        check_ins_(options.checkins_per_s, std::max(1.0, 5 * options.checkins_per_s)),
        calls_(options.calls_per_s, std::max(1.0, 5 * options.calls_per_s)),
        stalls_(options.stall_s) {}

  grpc::ServerUnaryReactor* CheckIn(grpc::CallbackServerContext* context,
                                    const v1::CheckInRequest* request,
                                    v1::CheckInReply* reply) override {
    return unary(context, [&](const Caller& caller) {
      if (!check_ins_.allow(caller.client))
        throw Refusal(Refused::kTooMuch, "[rpc] too many check-ins; come later");
      CheckInReply plain = service_.check_in(caller, from_proto(*request));
      plain.chunk_bytes = options_.chunk_bytes;
      *reply = to_proto(plain);
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
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Fetch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override {
    std::shared_ptr<const Download> download;
    uint64_t offset = 0;
    const grpc::Status status = guarded([&] {
      v1::FetchRequest proto;
      if (!read_proto(*request, proto))
        throw Refusal(Refused::kInvalid, "[rpc] no request for a task");
      const FetchRequest plain = from_proto(proto);
      download = service_.fetch(known(*context), plain);
      offset = plain.offset;
      if (offset > download->size())
        throw Refusal(Refused::kInvalid, "[rpc] an offset behind the end of the task");
    });
    if (!status.ok()) return new FetchCall(status);
    auto* call =
        new FetchCall(std::move(download), offset, options_.chunk_bytes, stalls_, *context);
    call->next();
    return call;
  }
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Push(
      grpc::CallbackServerContext* context) override {
    Caller caller;
    const grpc::Status status = guarded([&] { caller = known(*context); });
    if (!status.ok()) return new PushCall(service_, status);
    return new PushCall(service_, std::move(caller), options_.chunk_bytes, stalls_, *context);
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
  Stalls stalls_;
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
