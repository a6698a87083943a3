#include "espalier/rpc/identity.h"

#include <charconv>
#include <chrono>

#include "espalier/rpc/certificates.h"

namespace espalier::rpc {

namespace {

[[noreturn]] void refuse(const std::string& why) {
  throw Refusal(Refused::kIdentity, "[authentication] " + why);
}

std::string text_of(const grpc::string_ref& in) { return {in.data(), in.size()}; }

}  // namespace

Identities::Certificate Identities::certificate(const std::string& pem) {
  constexpr size_t kMostKnown = 4096;
  const std::lock_guard lock(mutex_);
  if (const auto found = known_.find(pem); found != known_.end()) return found->second;
  Certificate fresh;
  try {
    const CertificateFacts facts = read_certificate(pem);
    fresh = {facts.serial, facts.not_after};
  } catch (const Error& error) {
    refuse(error.what());
  }
  if (known_.size() >= kMostKnown) known_.clear();
  known_.emplace(pem, fresh);
  return fresh;
}

Caller Identities::of(const grpc::CallbackServerContext& context) {
  Caller caller;
  caller.address = context.peer();
  if (options_.credentials.insecure) {
    const auto& metadata = context.client_metadata();
    const auto found = metadata.find(kInsecureClient);
    if (found == metadata.end() || metadata.count(kInsecureClient) != 1)
      refuse("without certificates a client has to name itself");
    const std::string id = text_of(found->second);
    const auto [end, status] = std::from_chars(id.data(), id.data() + id.size(), caller.client);
    if (status != std::errc() || end != id.data() + id.size()) refuse("'" + id + "' is no client");
    return caller;
  }
  const auto& auth = *context.auth_context();
  const auto pem = auth.FindPropertyValues("x509_pem_cert");
  const auto names = auth.FindPropertyValues("x509_subject_alternative_name");
  if (!auth.IsPeerAuthenticated() || pem.size() != 1) refuse("the client has no certificate");
  if (names.size() != 1)
    refuse(concat("a client's certificate has one name, this one has ", names.size()));
  const std::string uri = text_of(names[0]);
  if (!parse_client_uri(uri, options_.federation, caller.client))
    refuse("'" + uri + "' is no client of the federation '" + options_.federation + "'");
  const Certificate certificate = this->certificate(text_of(pem[0]));
  caller.serial = certificate.serial;
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  if (static_cast<int64_t>(now) > certificate.not_after)
    refuse(concat("the certificate of client ", caller.client, " has expired; issue another one"));
  if (options_.revoked && options_.revoked(certificate.serial))
    refuse(concat("the certificate of client ", caller.client, " is revoked"));
  return caller;
}

}  // namespace espalier::rpc
