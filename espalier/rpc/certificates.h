#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

// A small certificate authority for one federation: P-256 keys, a CA that signs leaves alone, one
// certificate for the server and one for each client (docs/protocol.md). What changes the folder
// takes turns with other processes. Keys come from the
// system's randomness and are written for their owner alone (0600).
namespace espalier::rpc {

// What matters of a certificate.
struct CertificateFacts {
  std::string serial;                     // hexadecimal, lower case
  int64_t not_before = 0, not_after = 0;  // seconds since 1970
  std::vector<std::string> uris, hosts;   // names: URIs; DNS names and addresses
  bool elliptic = false;                  // whether its key is ECDSA's
};
CertificateFacts read_certificate(const std::string& pem);

// DIR/ca.pem, ca.key, server.pem, server.key and index.json, the list of what was issued:
// {"federation", "issued": [{"client", "serial", "not_after", "revoked"}]}. The only place that
// knows these names.
class Authority {
 public:
  // Makes the folder; refuses one that has an authority already. `hosts`: DNS names and addresses
  // by which clients reach the server; 127.0.0.1, ::1 and localhost are always among them.
  static Authority create(const std::filesystem::path& folder, const std::string& federation,
                          const std::vector<std::string>& hosts, int days = 3650);
  // Throws Error when there is none.
  static Authority open(const std::filesystem::path& folder);

  const std::string& federation() const { return federation_; }

  // DIR/clients/client-ID.pem and .key, or with `request` (a PEM file with a certificate request,
  // whose key never leaves the device) the certificate alone. Returns the certificate's path. A
  // client that has a valid one already gets another; both count until one is revoked.
  std::filesystem::path issue(uint64_t client, int days, const std::filesystem::path& request = {});
  // A client's id, or a serial number of which at least eight digits are given. Returns how many
  // certificates count no more. Throws Error when there is none.
  size_t revoke(const std::string& client_or_serial);

  // A new key and certificate for the server: for other hosts, or, with none given, for those of
  // the one that it has, which ends. A server that runs goes on with the old one until it starts
  // again; clients need nothing new.
  void issue_server(const std::vector<std::string>& hosts, int days = kServerDays);
  static constexpr int kServerDays = 825;

 private:
  void certify_server(const std::vector<std::string>& hosts, int days);
  Authority(std::filesystem::path folder, std::string federation)
      : folder_(std::move(folder)), federation_(std::move(federation)) {}
  std::filesystem::path folder_;
  std::string federation_;
};

// Serial numbers in an index.json that are revoked, lower case.
std::vector<std::string> revoked_serials(const std::filesystem::path& index);
// The federation that an index.json is of.
std::string federation_of(const std::filesystem::path& index);

}  // namespace espalier::rpc
