#include "espalier/rpc/certificates.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <ctime>
#include <memory>
#include <set>
#include <thread>

#include "espalier/base/file.h"
#include "espalier/base/options.h"
#include "espalier/rpc/credentials.h"

namespace espalier::rpc {

namespace fs = std::filesystem;

namespace {

constexpr const char* kWhere = "pki";
constexpr int64_t kDay = 86'400;

template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using KeyPtr = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using CertificatePtr = std::unique_ptr<X509, Freer<X509_free>>;
using RequestPtr = std::unique_ptr<X509_REQ, Freer<X509_REQ_free>>;
using BioPtr = std::unique_ptr<BIO, Freer<BIO_free_all>>;
using NumberPtr = std::unique_ptr<BIGNUM, Freer<BN_free>>;
using NamesPtr = std::unique_ptr<GENERAL_NAMES, Freer<GENERAL_NAMES_free>>;

// What OpenSSL says went wrong last.
std::string reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  return text == nullptr ? "unknown failure of OpenSSL" : text;
}

void require(bool ok, const char* what) {
  if (!ok) fail(kWhere, what, ": ", reason());
}

BioPtr reading(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::string written(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<size_t>(size)};
}

CertificatePtr parse_certificate(const std::string& pem) {
  ERR_clear_error();
  CertificatePtr certificate(PEM_read_bio_X509(reading(pem).get(), nullptr, nullptr, nullptr));
  require(certificate != nullptr, "this is no certificate in PEM form");
  return certificate;
}

std::string to_pem(X509* certificate) {
  const BioPtr out(BIO_new(BIO_s_mem()));
  require(PEM_write_bio_X509(out.get(), certificate) == 1, "cannot write a certificate");
  return written(out.get());
}

std::string to_pem(EVP_PKEY* key) {
  const BioPtr out(BIO_new(BIO_s_mem()));
  require(PEM_write_bio_PKCS8PrivateKey(out.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1,
          "cannot write a key");
  return written(out.get());
}

KeyPtr parse_key(const std::string& pem) {
  ERR_clear_error();
  KeyPtr key(PEM_read_bio_PrivateKey(reading(pem).get(), nullptr, nullptr, nullptr));
  require(key != nullptr, "this is no private key in PEM form");
  return key;
}

KeyPtr new_key() {
  KeyPtr key(EVP_EC_gen("P-256"));
  require(key != nullptr, "cannot make a key");
  return key;
}

// 127 random bits, so that numbers never meet.
void set_serial(X509* certificate) {
  const NumberPtr number(BN_new());
  require(BN_rand(number.get(), 127, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr,
          "cannot draw a serial number");
}

std::string serial_of(const X509* certificate) {
  const NumberPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  char* text = BN_bn2hex(number.get());
  std::string serial = text;
  OPENSSL_free(text);
  std::transform(serial.begin(), serial.end(), serial.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return serial;
}

int64_t seconds_of(const ASN1_TIME* time) {
  std::tm parts{};
  require(ASN1_TIME_to_tm(time, &parts) == 1, "a certificate has no readable date");
  return static_cast<int64_t>(timegm(&parts));
}

void add_extension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
  require(extension != nullptr, "cannot make an extension of a certificate");
  const int added = X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  require(added == 1, "cannot add an extension to a certificate");
}

struct Extension {
  int kind;
  std::string value;
};

// Signed by `issuer_key`; by itself when `issuer` is null. A day of slack for clocks that are late.
CertificatePtr make_certificate(EVP_PKEY* key, const std::string& name, X509* issuer,
                                EVP_PKEY* issuer_key, int days,
                                const std::vector<Extension>& extensions) {
  CertificatePtr certificate(X509_new());
  require(certificate != nullptr, "cannot make a certificate");
  X509* x = certificate.get();
  X509_set_version(x, 2);
  set_serial(x);
  X509_gmtime_adj(X509_getm_notBefore(x), -kDay);
  X509_gmtime_adj(X509_getm_notAfter(x), static_cast<long>(days) * kDay);
  X509_set_pubkey(x, key);
  X509_NAME* subject = X509_get_subject_name(x);
  require(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                                     reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1,
                                     0) == 1,
          "cannot name a certificate");
  X509_set_issuer_name(x, issuer == nullptr ? subject : X509_get_subject_name(issuer));
  for (const Extension& extension : extensions)
    add_extension(x, issuer == nullptr ? x : issuer, extension.kind, extension.value);
  require(X509_sign(x, issuer_key, EVP_sha256()) > 0, "cannot sign a certificate");
  return certificate;
}

bool is_address(const std::string& host) {
  ASN1_OCTET_STRING* address = a2i_IPADDRESS(host.c_str());
  const bool is = address != nullptr;
  ASN1_OCTET_STRING_free(address);
  return is;
}

// "DNS:host,IP:1.2.3.4". Commas would begin another name.
std::string names_of(std::vector<std::string> hosts) {
  for (const char* always : {"localhost", "127.0.0.1", "::1"}) {
    if (std::find(hosts.begin(), hosts.end(), always) == hosts.end()) hosts.emplace_back(always);
  }
  std::string names;
  for (const std::string& host : hosts) {
    const bool plain = !host.empty() && std::all_of(host.begin(), host.end(), [](unsigned char c) {
      return std::isalnum(c) || c == '.' || c == '-' || c == ':' || c == '*';
    });
    if (!plain) fail(kWhere, "expected a host name or an address, got '", host, "'");
    names += concat(names.empty() ? "" : ",", is_address(host) ? "IP:" : "DNS:", host);
  }
  return names;
}

// The bytes of an address as a text.
std::string address_of(const std::string& bytes) {
  char out[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(bytes.size() == sizeof(in_addr) ? AF_INET : AF_INET6, bytes.data(), out, sizeof(out));
  return out;
}

// For its owner alone from the first moment on.
void write_secret(const fs::path& path, const std::string& text) {
  const fs::path temporary = path.string() + concat(".", ::getpid(), ".tmp");
  const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) fail(kWhere, "cannot write ", path.string(), ": ", std::strerror(errno));
  const bool whole = ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                     ::fsync(file) == 0;
  const int error = errno;
  ::close(file);
  if (!whole || ::rename(temporary.c_str(), path.c_str()) != 0) {
    ::unlink(temporary.c_str());
    fail(kWhere, "cannot write ", path.string(), ": ", std::strerror(whole ? errno : error));
  }
}

fs::path index_path(const fs::path& folder) { return folder / "index.json"; }

// What is issued or revoked changes a list that is read first: one process at a time.
FileLock locked(const fs::path& folder) {
  constexpr std::chrono::milliseconds kPatience(10'000), kLook(20);
  std::string holder;
  for (auto waited = std::chrono::milliseconds(0); waited < kPatience; waited += kLook) {
    if (auto lock = FileLock::try_take(folder / "lock", holder)) return std::move(*lock);
    std::this_thread::sleep_for(kLook);
  }
  fail(kWhere, folder.string(), " is in use by ", holder, "; try again when that is done");
}

Json read_index(const fs::path& path) {
  const Json index = Json::parse(read_text_file(path), nullptr, false);
  const bool sound = index.is_object() && index.contains("federation") &&
                     index["federation"].is_string() && index.contains("issued") &&
                     index["issued"].is_array();
  if (!sound) fail(kWhere, path.string(), " is damaged; bring back a copy of it");
  return index;
}

void write_index(const fs::path& folder, const Json& index) {
  write_text_file_atomic(index_path(folder), index.dump(2) + "\n");
}

constexpr const char* kLeafUsage = "critical,digitalSignature";

}  // namespace

CertificateFacts read_certificate(const std::string& pem) {
  const CertificatePtr certificate = parse_certificate(pem);
  CertificateFacts facts;
  facts.serial = serial_of(certificate.get());
  facts.not_before = seconds_of(X509_get0_notBefore(certificate.get()));
  facts.not_after = seconds_of(X509_get0_notAfter(certificate.get()));
  facts.elliptic = EVP_PKEY_base_id(X509_get0_pubkey(certificate.get())) == EVP_PKEY_EC;
  const NamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate.get(), NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    const auto text = [](const ASN1_STRING* in) {
      return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(in)),
                         static_cast<size_t>(ASN1_STRING_length(in)));
    };
    if (name->type == GEN_URI) facts.uris.push_back(text(name->d.uniformResourceIdentifier));
    if (name->type == GEN_DNS) facts.hosts.push_back(text(name->d.dNSName));
    if (name->type == GEN_IPADD) facts.hosts.push_back(address_of(text(name->d.iPAddress)));
  }
  return facts;
}

Authority Authority::create(const fs::path& folder, const std::string& federation,
                            const std::vector<std::string>& hosts, int days) {
  const bool plain = !federation.empty() && federation.size() <= 64 &&
                     std::all_of(federation.begin(), federation.end(), [](unsigned char c) {
                       return std::isalnum(c) || c == '-' || c == '_' || c == '.';
                     });
  if (!plain)
    fail(kWhere, "expected a federation's name of letters, digits, '-', '_' and '.', got '",
         federation, "'");
  const auto refuse_another = [&] {
    if (fs::exists(index_path(folder)))
      fail(kWhere, folder.string(), " has an authority already; use another folder");
  };
  refuse_another();
  const std::string names = names_of(hosts);  // checked before anything is written
  make_folder(folder);
  const FileLock lock = locked(folder);
  refuse_another();
  const KeyPtr key = new_key();
  const CertificatePtr ca =
      make_certificate(key.get(), "Espalier CA of " + federation, nullptr, key.get(), days,
                       {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                        {NID_key_usage, "critical,keyCertSign"},
                        {NID_subject_key_identifier, "hash"}});
  write_secret(folder / "ca.key", to_pem(key.get()));
  write_text_file_atomic(folder / "ca.pem", to_pem(ca.get()));
  Authority authority(folder, federation);
  authority.certify_server(hosts, std::min(days, kServerDays));
  write_index(folder, {{"federation", federation}, {"issued", Json::array()}});
  return authority;
}

Authority Authority::open(const fs::path& folder) {
  if (!fs::exists(index_path(folder)))
    fail(kWhere, folder.string(), " has no authority; make one: espalier pki init ",
         folder.string());
  return {folder, read_index(index_path(folder))["federation"].get<std::string>()};
}

void Authority::issue_server(const std::vector<std::string>& hosts, int days) {
  const FileLock lock = locked(folder_);
  certify_server(
      hosts.empty() ? read_certificate(read_text_file(folder_ / "server.pem")).hosts : hosts, days);
}

void Authority::certify_server(const std::vector<std::string>& hosts, int days) {
  const CertificatePtr ca = parse_certificate(read_text_file(folder_ / "ca.pem"));
  const KeyPtr ca_key = parse_key(read_text_file(folder_ / "ca.key"));
  const KeyPtr key = new_key();
  const CertificatePtr certificate =
      make_certificate(key.get(), "Espalier server of " + federation_, ca.get(), ca_key.get(), days,
                       {{NID_basic_constraints, "critical,CA:FALSE"},
                        {NID_key_usage, kLeafUsage},
                        {NID_ext_key_usage, "serverAuth"},
                        {NID_subject_alt_name, names_of(hosts)},
                        {NID_authority_key_identifier, "keyid"}});
  write_secret(folder_ / "server.key", to_pem(key.get()));
  write_text_file_atomic(folder_ / "server.pem", to_pem(certificate.get()));
}

fs::path Authority::issue(uint64_t client, int days, const fs::path& request) {
  const FileLock lock = locked(folder_);
  Json index = read_index(index_path(folder_));
  const CertificatePtr ca = parse_certificate(read_text_file(folder_ / "ca.pem"));
  const KeyPtr ca_key = parse_key(read_text_file(folder_ / "ca.key"));
  KeyPtr key;
  if (request.empty()) {
    key = new_key();
  } else {
    ERR_clear_error();
    const RequestPtr csr(
        PEM_read_bio_X509_REQ(reading(read_text_file(request)).get(), nullptr, nullptr, nullptr));
    require(csr != nullptr, "this is no certificate request in PEM form");
    key.reset(X509_REQ_get_pubkey(csr.get()));
    // Whoever asks must have the key.
    require(key != nullptr && X509_REQ_verify(csr.get(), key.get()) == 1,
            "the request is not signed by its own key");
    char group[32] = {};
    size_t length = 0;
    const bool p256 = EVP_PKEY_get_group_name(key.get(), group, sizeof(group), &length) == 1 &&
                      std::string_view(group) == "prime256v1";
    if (!p256) fail(kWhere, "expected a P-256 key in ", request.string());
  }
  const CertificatePtr certificate =
      make_certificate(key.get(), concat("client ", client), ca.get(), ca_key.get(), days,
                       {{NID_basic_constraints, "critical,CA:FALSE"},
                        {NID_key_usage, kLeafUsage},
                        {NID_ext_key_usage, "clientAuth"},
                        {NID_subject_alt_name, "URI:" + client_uri(federation_, client)},
                        {NID_authority_key_identifier, "keyid"}});
  const fs::path folder = folder_ / "clients";
  make_folder(folder);
  const fs::path path = folder / concat("client-", client, ".pem");
  index["issued"].push_back({{"client", client},
                             {"serial", serial_of(certificate.get())},
                             {"not_after", seconds_of(X509_get0_notAfter(certificate.get()))},
                             {"revoked", false}});
  write_index(folder_, index);  // first: what is out there is listed
  if (request.empty()) write_secret(folder / concat("client-", client, ".key"), to_pem(key.get()));
  write_text_file_atomic(path, to_pem(certificate.get()));
  return path;
}

size_t Authority::revoke(const std::string& client_or_serial) {
  constexpr size_t kShortestSerial = 8;
  const FileLock lock = locked(folder_);
  Json index = read_index(index_path(folder_));
  uint64_t client = 0;
  const char* begin = client_or_serial.data();
  const char* end = begin + client_or_serial.size();
  const auto [stop, status] = std::from_chars(begin, end, client);
  const bool is_client =
      status == std::errc() && stop == end && client_or_serial.size() < kShortestSerial;
  std::string wanted = client_or_serial;
  std::transform(wanted.begin(), wanted.end(), wanted.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  size_t count = 0;
  for (Json& one : index["issued"]) {
    const bool same =
        is_client ? one.value("client", uint64_t{0}) == client
                  : wanted.size() >= kShortestSerial && one.value("serial", "").starts_with(wanted);
    if (!same || one.value("revoked", false)) continue;
    one["revoked"] = true;
    ++count;
  }
  if (count == 0)
    fail(kWhere, "there is no certificate to revoke for '", client_or_serial,
         "': expected a client's id or at least ", kShortestSerial, " digits of a serial number; ",
         index_path(folder_).string(), " lists them");
  write_index(folder_, index);
  return count;
}

std::vector<std::string> revoked_serials(const fs::path& path) {
  std::vector<std::string> serials;
  const Json index = read_index(path);
  for (const Json& one : index["issued"]) {
    if (one.value("revoked", false)) serials.push_back(one.value("serial", ""));
  }
  return serials;
}

std::string federation_of(const fs::path& path) {
  return read_index(path)["federation"].get<std::string>();
}

}  // namespace espalier::rpc
