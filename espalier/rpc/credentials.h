#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

// Who one is and whom one trusts, as PEM files. Mutual TLS 1.3: the server's certificate names its
// hosts, a client's names the client and nothing else does.
namespace espalier::rpc {

struct Credentials {
  bool insecure = false;             // neither: for loopback only
  std::string ca, certificate, key;  // PEM
};

// Reads the three files. Throws Error that names the file and what is wrong with it: missing,
// no PEM, a key that others may read or that is not the certificate's, a certificate that is not
// the CA's, has expired or is not valid yet, or has an RSA key (which would let TLS 1.2 in). A key
// in $CREDENTIALS_DIRECTORY is systemd's to guard: its access list looks like the group's right.
Credentials read_credentials(const std::filesystem::path& ca,
                             const std::filesystem::path& certificate,
                             const std::filesystem::path& key);

// The name of a client in its certificate: exactly one such URI.
//   espalier://FEDERATION/client/ID
std::string client_uri(const std::string& federation, uint64_t client);
// False when it is no such name, or another federation's.
bool parse_client_uri(const std::string& uri, const std::string& federation, uint64_t& client);

// Whether "host:port" is this machine alone: localhost, 127.0.0.0/8 or [::1].
bool is_loopback(const std::string& address);

// To be called before anything of gRPC is used in a process: makes TLS 1.3 the only one that two
// ECDSA ends agree on, and gRPC silent unless GRPC_VERBOSITY is set.
void require_tls13();

}  // namespace espalier::rpc
