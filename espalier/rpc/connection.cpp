#include "espalier/rpc/connection.h"

#include <grpc/slice.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <mutex>
#include <set>

#include "espalier/base/printable.h"
#include "espalier/rpc/channel_arguments.h"
#include "espalier/rpc/chunks.h"
#include "espalier/rpc/convert.h"
#include "espalier/rpc/federation.grpc.pb.h"
#include "espalier/rpc/identity.h"

namespace espalier::rpc {

namespace {

constexpr auto kShortCall = std::chrono::seconds(20);
constexpr auto kFarewell = std::chrono::seconds(2);

[[noreturn]] void throw_status(const grpc::Status& status, const std::string& server) {
  const std::string said = printable(status.error_message());
  switch (status.error_code()) {
    case grpc::StatusCode::UNAUTHENTICATED:
      throw Refusal(Refused::kIdentity, said);
    case grpc::StatusCode::PERMISSION_DENIED:
      throw Refusal(Refused::kPermission, said);
    case grpc::StatusCode::INVALID_ARGUMENT:
      throw Refusal(Refused::kInvalid, said);
    case grpc::StatusCode::ALREADY_EXISTS:
      throw Refusal(Refused::kConflict, said);
    case grpc::StatusCode::FAILED_PRECONDITION:
      throw Refusal(Refused::kMismatch, said);
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      throw Refusal(Refused::kTooMuch, said);
    default:
      break;
  }
  const auto has = [&](const char* part) { return said.find(part) != std::string::npos; };
  if (has("CERTIFICATE_VERIFY_FAILED") || has("certificate verify failed"))
    throw Refusal(Refused::kIdentity,
                  concat("[authentication] the certificate of ", server,
                         " is not from the CA that this client trusts, or has expired; --ca is the "
                         "federation's ca.pem"));
  if (has("ostname Verification Check failed") || has("not verified for"))
    throw Refusal(
        Refused::kIdentity,
        concat("[authentication] the server's certificate does not name the host of ", server,
               "; use a name that it has, or `espalier pki server DIR --host NAME`"));
  if (has("Connection refused"))
    throw Unreachable(concat("[join] nobody listens at ", server,
                             " (is the server running, and is this its port?)"));
  if (has("DNS resolution failed"))
    throw Unreachable(concat("[join] the name of ", server, " is not known"));
  throw Unreachable(concat("[join] ", server, ": ", said.empty() ? "no connection" : said));
}

// A call whose messages come and go as gRPC holds them; the calling thread waits for each.
class RawCall {
 public:
  RawCall(grpc::GenericStub& stub, grpc::ClientContext& context, const char* method)
      : context_(context), stream_(stub.PrepareCall(&context, method, &queue_)) {
    stream_->StartCall(this);
    wait();
  }
  ~RawCall() {
    if (!finished_) {
      context_.TryCancel();
      finish();
    }
    queue_.Shutdown();
    wait();
  }
  RawCall(const RawCall&) = delete;
  RawCall& operator=(const RawCall&) = delete;

  // False when the call is over.
  bool write(const grpc::ByteBuffer& message) {
    stream_->Write(message, this);
    return wait();
  }
  bool writes_done() {
    stream_->WritesDone(this);
    return wait();
  }
  bool read(grpc::ByteBuffer& message) {
    message.Clear();
    stream_->Read(&message, this);
    return wait();
  }
  bool read(google::protobuf::MessageLite& message) {
    grpc::ByteBuffer buffer;
    return read(buffer) && read_proto(buffer, message);
  }
  // Reads and forgets what is still to come.
  grpc::Status finish() {
    grpc::ByteBuffer rest;
    while (read(rest)) {
    }
    grpc::Status status;
    stream_->Finish(&status, this);
    wait();
    finished_ = true;
    return status;
  }

 private:
  bool wait() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::ClientContext& context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool finished_ = false;
};

}  // namespace

struct Connection::Impl {
  explicit Impl(const ConnectionOptions& given) : options(given) { connect(); }

  // Nothing is sent before the first call.
  void connect() {
    const auto channel =
        grpc::CreateCustomChannel(options.server, client_credentials(options.credentials),
                                  client_arguments(options.window_bytes, options.keepalive_ms));
    stub = v1::Federation::NewStub(channel);
    raw = std::make_unique<grpc::GenericStub>(channel);
  }

  // A call's context, known to cancel() while it lives.
  class Call {
   public:
    // `farewell`: out of cancel()'s reach.
    Call(Impl& impl, std::optional<std::chrono::milliseconds> limit, bool farewell = false)
        : impl_(impl) {
      if (limit) context.set_deadline(std::chrono::system_clock::now() + *limit);
      if (impl.options.credentials.insecure)
        context.AddMetadata(kInsecureClient, std::to_string(impl.options.insecure_client));
      if (farewell) return;
      const std::lock_guard lock(impl.mutex);
      impl.calls.insert(&context);
      if (impl.cancelled) context.TryCancel();
    }
    ~Call() {
      const std::lock_guard lock(impl_.mutex);
      impl_.calls.erase(&context);
    }
    grpc::ClientContext context;

   private:
    Impl& impl_;
  };

  void check(const grpc::Status& status) const {
    if (!status.ok()) throw_status(status, options.server);
  }

  const ConnectionOptions options;
  std::unique_ptr<v1::Federation::Stub> stub;
  std::unique_ptr<grpc::GenericStub> raw;
  uint32_t chunk_bytes = 256 << 10;  // until the server says more
  std::mutex mutex;
  std::set<grpc::ClientContext*> calls;
  bool cancelled = false;
};

Connection::Connection(const ConnectionOptions& options) {
  if (options.credentials.insecure && !is_loopback(options.server))
    fail("join", "without certificates only a server on this machine is joined, not ",
         options.server, "; leave out --insecure");
  require_tls13();
  impl_ = std::make_unique<Impl>(options);
}
Connection::~Connection() = default;

CheckInReply Connection::check_in(const CheckInRequest& request) {
  Impl::Call call(*impl_, kShortCall);
  v1::CheckInReply reply;
  impl_->check(impl_->stub->CheckIn(&call.context, to_proto(request), &reply));
  CheckInReply said = from_proto(reply);
  if (said.chunk_bytes > 0) impl_->chunk_bytes = std::min(said.chunk_bytes, kMaxChunk);
  return said;
}

AwaitReply Connection::await(const AwaitRequest& request) {
  Impl::Call call(*impl_, std::chrono::milliseconds(request.wait_ms) + kShortCall);
  v1::AwaitReply reply;
  impl_->check(impl_->stub->Await(&call.context, to_proto(request), &reply));
  return from_proto(reply);
}

ReportReply Connection::report(const ReportRequest& request) {
  Impl::Call call(*impl_, kShortCall);
  v1::ReportReply reply;
  impl_->check(impl_->stub->Report(&call.context, to_proto(request), &reply));
  return from_proto(reply);
}

void Connection::fetch(const FetchRequest& request,
                       const std::function<void(uint64_t offset, const Pieces& data)>& take) {
  Impl::Call call(*impl_, std::nullopt);
  RawCall stream(*impl_->raw, call.context, "/espalier.v1.Federation/Fetch");
  grpc::ByteBuffer buffer;
  uint64_t expected = request.offset;
  if (stream.write(write_proto(to_proto(request))) && stream.writes_done()) {
    while (stream.read(buffer)) {
      ChunkView chunk;
      if (!read_chunk(buffer, chunk) || chunk.offset != expected || chunk.size == 0 ||
          !chunk.intact())
        throw Unreachable("[join] the task arrived damaged; it is fetched again");
      take(expected, chunk.pieces);
      expected += chunk.size;
    }
  }
  impl_->check(stream.finish());
}

PushReply Connection::push(
    const PushOpen& open,
    const std::function<void(uint64_t offset, std::span<uint8_t> out)>& read) {
  Impl::Call call(*impl_, std::nullopt);
  RawCall stream(*impl_->raw, call.context, "/espalier.v1.Federation/Push");
  v1::PushPart opening;
  *opening.mutable_open() = to_proto(open);
  v1::PushReply said;
  const auto hear = [&] {
    if (stream.read(said)) return from_proto(said);
    impl_->check(stream.finish());
    throw Unreachable("[join] the server closed the connection");
  };
  stream.write(write_proto(opening));
  PushReply reply = hear();
  if (reply.verdict == Verdict::kMore) {
    if (reply.received > open.bytes)
      throw Refusal(Refused::kInvalid, "[join] the server has more of the update than there is");
    for (uint64_t offset = reply.received; offset < open.bytes;) {
      const auto size =
          static_cast<size_t>(std::min<uint64_t>(impl_->chunk_bytes, open.bytes - offset));
      const grpc::Slice data(grpc_slice_malloc(size), grpc::Slice::STEAL_REF);
      read(offset, {const_cast<uint8_t*>(data.begin()), size});  // nobody else has it yet
      if (!stream.write(write_push_part(offset, data))) break;
      offset += size;
    }
    stream.writes_done();
    reply = hear();
  }
  impl_->check(stream.finish());
  return reply;
}

void Connection::leave(const ReportRequest& request) {
  Impl::Call call(*impl_, kFarewell, true);
  v1::ReportReply reply;
  static_cast<void>(impl_->stub->Report(&call.context, to_proto(request), &reply));
}

void Connection::hang_up() { impl_->connect(); }

void Connection::cancel() {
  const std::lock_guard lock(impl_->mutex);
  impl_->cancelled = true;
  for (grpc::ClientContext* context : impl_->calls) context->TryCancel();
}

}  // namespace espalier::rpc
