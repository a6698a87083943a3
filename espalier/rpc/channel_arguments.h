#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "espalier/rpc/credentials.h"

// How gRPC is set on both ends, in one place: windows, keepalive and limits. Private to rpc/.
namespace espalier::rpc {

struct ServerOptions;

// What one message may occupy beyond its chunk.
inline constexpr int kMessageRoom = 80 << 10;

void set_server_arguments(const ServerOptions& options, grpc::ServerBuilder& builder);
// Clients take whatever chunk a server may be set to.
inline constexpr uint32_t kMaxChunk = 4096 << 10;
grpc::ChannelArguments client_arguments(uint32_t window_bytes, uint32_t keepalive_ms);
std::shared_ptr<grpc::ServerCredentials> server_credentials(const Credentials& credentials);
std::shared_ptr<grpc::ChannelCredentials> client_credentials(const Credentials& credentials);

}  // namespace espalier::rpc
