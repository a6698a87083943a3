#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <mutex>
#include <string>

#include "espalier/rpc/server.h"
#include "espalier/rpc/service.h"

// Who calls, from the connection's certificate. Private to rpc/.
namespace espalier::rpc {

// Key of the metadata by which clients name themselves without certificates.
inline constexpr const char* kInsecureClient = "espalier-client";

class Identities {
 public:
  explicit Identities(const ServerOptions& options) : options_(options) {}

  // Throws Refusal(kIdentity): no certificate, not exactly one name, another federation's, expired
  // since the connection was made, or revoked. Any thread.
  Caller of(const grpc::CallbackServerContext& context);

 private:
  struct Certificate {
    std::string serial;
    int64_t not_after = 0;  // seconds since 1970
  };
  Certificate certificate(const std::string& pem);

  const ServerOptions& options_;
  std::mutex mutex_;
  std::map<std::string, Certificate> known_;  // by PEM; a connection's is read once
};

}  // namespace espalier::rpc
