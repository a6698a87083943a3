#include "espalier/rpc/credentials.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <sys/stat.h>

#include <charconv>
#include <cstdlib>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::rpc {

namespace fs = std::filesystem;

namespace {

constexpr const char* kWhere = "authentication";

struct Free {
  void operator()(BIO* one) const { BIO_free_all(one); }
  void operator()(X509* one) const { X509_free(one); }
  void operator()(EVP_PKEY* one) const { EVP_PKEY_free(one); }
  void operator()(X509_STORE* one) const { X509_STORE_free(one); }
  void operator()(X509_STORE_CTX* one) const { X509_STORE_CTX_free(one); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

Owned<BIO> reading(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Owned<X509> certificate_in(const std::string& pem, const fs::path& path) {
  Owned<X509> certificate(PEM_read_bio_X509(reading(pem).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!certificate) fail(kWhere, path.string(), " holds no certificate in PEM form");
  return certificate;
}

bool is_handed_over(const fs::path& key) {
  const char* folder = std::getenv("CREDENTIALS_DIRECTORY");
  return folder != nullptr && *folder != '\0' &&
         key.lexically_normal().parent_path() ==
             (fs::path(folder) / "").lexically_normal().parent_path();
}

}  // namespace

Credentials read_credentials(const fs::path& ca, const fs::path& certificate, const fs::path& key) {
  struct Needed {
    const fs::path& path;
    const char* what;
    const char* option;
  };
  for (const Needed& file : {Needed{ca, "the federation's CA", "security.ca"},
                             Needed{certificate, "a certificate", "security.cert"},
                             Needed{key, "its private key", "security.key"}}) {
    if (file.path.empty())
      fail(kWhere, file.option, " is missing: the file with ", file.what,
           "; `espalier pki` makes them");
    if (!fs::exists(file.path))
      fail(kWhere, file.option, ": ", file.path.string(), " is not there");
  }
  struct stat status {};
  const mode_t others = is_handed_over(key) ? S_IRWXO : S_IRWXG | S_IRWXO;
  if (::stat(key.c_str(), &status) == 0 && (status.st_mode & others) != 0)
    fail(kWhere, "others may read ", key.string(), "; chmod 600 it");
  Credentials out{false, read_text_file(ca), read_text_file(certificate), read_text_file(key)};
  const Owned<X509> authority = certificate_in(out.ca, ca);
  const Owned<X509> mine = certificate_in(out.certificate, certificate);
  const Owned<EVP_PKEY> secret(
      PEM_read_bio_PrivateKey(reading(out.key).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!secret) fail(kWhere, key.string(), " holds no private key in PEM form");
  if (X509_check_private_key(mine.get(), secret.get()) != 1) {
    ERR_clear_error();
    fail(kWhere, key.string(), " is not the key of ", certificate.string());
  }
  if (EVP_PKEY_base_id(X509_get0_pubkey(mine.get())) != EVP_PKEY_EC)
    fail(kWhere, certificate.string(),
         " has a key that is not elliptic, with which TLS 1.2 could be negotiated; issue another "
         "one with `espalier pki`");
  const Owned<X509_STORE> store(X509_STORE_new());
  X509_STORE_add_cert(store.get(), authority.get());
  const Owned<X509_STORE_CTX> check(X509_STORE_CTX_new());
  X509_STORE_CTX_init(check.get(), store.get(), mine.get(), nullptr);
  if (X509_verify_cert(check.get()) != 1) {
    const int error = X509_STORE_CTX_get_error(check.get());
    ERR_clear_error();
    const std::string name = certificate.string();
    if (error == X509_V_ERR_CERT_HAS_EXPIRED)
      fail(kWhere, name,
           " has expired; issue another one (`espalier pki issue`, the server's `espalier pki "
           "server`)");
    if (error == X509_V_ERR_CERT_NOT_YET_VALID)
      fail(kWhere, name, " is not valid yet; is this machine's clock right?");
    fail(kWhere, name, " is not from the CA in ", ca.string(), ": ",
         X509_verify_cert_error_string(error));
  }
  return out;
}

std::string client_uri(const std::string& federation, uint64_t client) {
  return concat("espalier://", federation, "/client/", client);
}

bool parse_client_uri(const std::string& uri, const std::string& federation, uint64_t& client) {
  const std::string start = concat("espalier://", federation, "/client/");
  if (!uri.starts_with(start) || uri.size() == start.size()) return false;
  const char* begin = uri.data() + start.size();
  const char* end = uri.data() + uri.size();
  const auto [stop, status] = std::from_chars(begin, end, client);
  // One spelling per client: no leading zeros.
  return status == std::errc() && stop == end && client_uri(federation, client) == uri;
}

bool is_loopback(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  in_addr four{};
  in6_addr six{};
  constexpr uint32_t kLoopbackNet = 127;
  if (::inet_pton(AF_INET, host.c_str(), &four) == 1)
    return ntohl(four.s_addr) >> 24 == kLoopbackNet;
  if (::inet_pton(AF_INET6, host.c_str(), &six) == 1) return IN6_IS_ADDR_LOOPBACK(&six) != 0;
  return host == "localhost";
}

// gRPC 1.51 has no call that forbids TLS 1.2; of this cipher only RSA certificates could make use,
// and there are none.
void require_tls13() {
  static const bool done = [] {
    ::setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384", 1);
    // What goes wrong is said by us, once.
    ::setenv("GRPC_VERBOSITY", "NONE", 0);
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace espalier::rpc
