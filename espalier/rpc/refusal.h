#pragma once

#include <string>

#include "espalier/base/error.h"

namespace espalier::rpc {

// Why a call is refused; a status of gRPC on the wire.
enum class Refused : uint8_t {
  kIdentity,    // no certificate that this federation knows, or a revoked one: UNAUTHENTICATED
  kPermission,  // another client's task, say: PERMISSION_DENIED
  kInvalid,     // what is sent cannot be right: INVALID_ARGUMENT
  kConflict,    // somebody else acts as this client: ALREADY_EXISTS
  kMismatch,    // another run, version or data: FAILED_PRECONDITION
  kLater,       // not now: UNAVAILABLE
  kTooMuch,     // over a limit: RESOURCE_EXHAUSTED
};

// Thrown by a Service to refuse a call, and by a Connection when one was refused.
class Refusal : public Error {
 public:
  Refusal(Refused why, const std::string& text) : Error(text), why_(why) {}
  Refused why() const { return why_; }

 private:
  Refused why_;
};

// The server cannot be reached, or the connection broke: worth another try.
class Unreachable : public Error {
 public:
  using Error::Error;
};

}  // namespace espalier::rpc
