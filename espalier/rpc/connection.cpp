#include "espalier/rpc/connection.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <mutex>
#include <set>

#include "espalier/rpc/channel_arguments.h"
#include "espalier/rpc/convert.h"
#include "espalier/rpc/federation.grpc.pb.h"
#include "espalier/rpc/identity.h"

namespace espalier::rpc {

namespace {

constexpr auto kShortCall = std::chrono::seconds(20);

[[noreturn]] void throw_status(const grpc::Status& status, const std::string& server) {
  const std::string& said = status.error_message();
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
    throw Refusal(Refused::kIdentity,
                  concat("[authentication] the server's certificate does not name the host of ",
                         server, "; use a name that it has, or `espalier pki init --host`"));
  if (has("Connection refused"))
    throw Unreachable(concat("[join] nobody listens at ", server,
                             " (is the server running, and is this its port?)"));
  if (has("DNS resolution failed"))
    throw Unreachable(concat("[join] the name of ", server, " is not known"));
  throw Unreachable(concat("[join] ", server, ": ", said.empty() ? "no connection" : said));
}

}  // namespace

struct Connection::Impl {
  explicit Impl(const ConnectionOptions& given)
      : options(given),
        stub(v1::Federation::NewStub(grpc::CreateCustomChannel(
            options.server, client_credentials(options.credentials),
            client_arguments(options.chunk_bytes, options.window_bytes, options.keepalive_ms)))) {}

  // A call's context, known to cancel() while it lives.
  class Call {
   public:
    Call(Impl& impl, std::optional<std::chrono::milliseconds> limit) : impl_(impl) {
      if (limit) context.set_deadline(std::chrono::system_clock::now() + *limit);
      if (impl.options.credentials.insecure)
        context.AddMetadata(kInsecureClient, std::to_string(impl.options.insecure_client));
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
  std::mutex mutex;
  std::set<grpc::ClientContext*> calls;
  bool cancelled = false;
};

Connection::Connection(const ConnectionOptions& options) {
  require_tls13();
  impl_ = std::make_unique<Impl>(options);
}
Connection::~Connection() = default;

CheckInReply Connection::check_in(const CheckInRequest& request) {
  Impl::Call call(*impl_, kShortCall);
  v1::CheckInReply reply;
  impl_->check(impl_->stub->CheckIn(&call.context, to_proto(request), &reply));
  return from_proto(reply);
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

void Connection::fetch(
    const FetchRequest& request,
    const std::function<void(uint64_t offset, std::span<const uint8_t> data)>& take) {
  Impl::Call call(*impl_, std::nullopt);
  const auto reader = impl_->stub->Fetch(&call.context, to_proto(request));
  v1::Chunk chunk;
  uint64_t expected = request.offset;
  try {
    while (reader->Read(&chunk)) {
      const std::span<const uint8_t> data(reinterpret_cast<const uint8_t*>(chunk.data().data()),
                                          chunk.data().size());
      if (chunk.offset() != expected || data.empty() || checksum32(data) != chunk.check())
        throw Unreachable("[join] the task arrived damaged; it is fetched again");
      take(expected, data);
      expected += data.size();
    }
  } catch (...) {
    call.context.TryCancel();
    while (reader->Read(&chunk)) {
    }
    static_cast<void>(reader->Finish());
    throw;
  }
  impl_->check(reader->Finish());
}

PushReply Connection::push(
    const PushOpen& open,
    const std::function<void(uint64_t offset, std::span<uint8_t> out)>& read) {
  Impl::Call call(*impl_, std::nullopt);
  const auto stream = impl_->stub->Push(&call.context);
  v1::PushPart part;
  *part.mutable_open() = to_proto(open);
  v1::PushReply said;
  if (!stream->Write(part) || !stream->Read(&said)) {
    impl_->check(stream->Finish());
    throw Unreachable("[join] the server closed the connection");
  }
  PushReply reply = from_proto(said);
  if (reply.verdict == Verdict::kMore) {
    if (reply.received > open.bytes)
      throw Refusal(Refused::kInvalid, "[join] the server has more of the update than there is");
    for (uint64_t offset = reply.received; offset < open.bytes;) {
      const auto size =
          static_cast<size_t>(std::min<uint64_t>(impl_->options.chunk_bytes, open.bytes - offset));
      v1::Chunk& chunk = *part.mutable_chunk();
      std::string& data = *chunk.mutable_data();
      data.resize(size);
      const std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(data.data()), size);
      read(offset, bytes);
      chunk.set_offset(offset);
      chunk.set_check(checksum32(bytes));
      if (!stream->Write(part)) break;
      offset += size;
    }
    stream->WritesDone();
    const bool answered = stream->Read(&said);
    if (!answered) {
      impl_->check(stream->Finish());
      throw Unreachable("[join] the server closed the connection");
    }
    reply = from_proto(said);
  }
  while (stream->Read(&said)) {
  }
  impl_->check(stream->Finish());
  return reply;
}

void Connection::cancel() {
  const std::lock_guard lock(impl_->mutex);
  impl_->cancelled = true;
  for (grpc::ClientContext* context : impl_->calls) context->TryCancel();
}

}  // namespace espalier::rpc
