#include "espalier/rpc/certificates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "espalier/base/file.h"
#include "espalier/base/test_error.h"
#include "espalier/rpc/credentials.h"
#include "espalier/rpc/revocations.h"

namespace espalier::rpc {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

class CertificatesTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  Credentials client(uint64_t id) const {
    return read_credentials(folder_ / "ca.pem", folder_ / concat("clients/client-", id, ".pem"),
                            folder_ / concat("clients/client-", id, ".key"));
  }
  const fs::path folder_ = fs::path(testing::TempDir()) / concat("pki-", ::getpid());
};

TEST_F(CertificatesTest, NameTheServersHostsAndOneClientEach) {
  Authority authority = Authority::create(folder_, "garden", {"server.example", "10.0.0.7"});
  authority.issue(17, 90);
  const CertificateFacts server = read_certificate(read_text_file(folder_ / "server.pem"));
  EXPECT_THAT(server.hosts, Contains("server.example"));
  EXPECT_THAT(server.hosts, Contains("localhost"));
  EXPECT_TRUE(server.elliptic);
  const CertificateFacts client =
      read_certificate(read_text_file(folder_ / "clients/client-17.pem"));
  EXPECT_THAT(client.uris, ElementsAre("espalier://garden/client/17"));
  EXPECT_TRUE(client.hosts.empty());
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  EXPECT_NEAR(static_cast<double>(client.not_after - now), 90.0 * 86'400, 60);
  EXPECT_LT(client.not_before, now);
  EXPECT_EQ(Authority::open(folder_).federation(), "garden");
}

TEST_F(CertificatesTest, KeysAreTheirOwnersAlone) {
  Authority::create(folder_, "garden", {}).issue(1, 1);
  for (const char* key : {"ca.key", "server.key", "clients/client-1.key"}) {
    struct stat status {};
    ASSERT_EQ(::stat((folder_ / key).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600U) << key;
  }
}

TEST_F(CertificatesTest, RevokesByClientAndBySerial) {
  Authority authority = Authority::create(folder_, "garden", {});
  authority.issue(1, 9);
  authority.issue(1, 9);
  const std::string path = authority.issue(2, 9).string();
  EXPECT_TRUE(revoked_serials(folder_ / "index.json").empty());
  EXPECT_EQ(authority.revoke("1"), 2U);
  EXPECT_EQ(revoked_serials(folder_ / "index.json").size(), 2U);
  const std::string serial = read_certificate(read_text_file(path)).serial;
  EXPECT_EQ(authority.revoke(serial.substr(0, 12)), 1U);
  EXPECT_THAT(revoked_serials(folder_ / "index.json"), Contains(serial));
  EXPECT_THAT(error_of([&] { authority.revoke("1"); }), HasSubstr("no certificate to revoke"));
  EXPECT_THAT(error_of([&] { authority.revoke("3"); }), HasSubstr("no certificate to revoke"));
}

TEST_F(CertificatesTest, TheServersIsMadeAnewForItsHostsOrForOthers) {
  Authority authority = Authority::create(folder_, "garden", {"server.example", "10.0.0.7"});
  const auto now = [&] { return read_certificate(read_text_file(folder_ / "server.pem")); };
  const CertificateFacts first = now();
  authority.issue_server({}, 30);
  EXPECT_NE(now().serial, first.serial);
  EXPECT_EQ(now().hosts, first.hosts);
  EXPECT_THAT(now().hosts, Contains("10.0.0.7"));
  EXPECT_LT(now().not_after, first.not_after);
  authority.issue_server({"other.example"});
  EXPECT_THAT(now().hosts, ElementsAre("other.example", "localhost", "127.0.0.1", "::1"));
  EXPECT_NO_THROW(
      read_credentials(folder_ / "ca.pem", folder_ / "server.pem", folder_ / "server.key"));
}

TEST_F(CertificatesTest, WhoeverIssuesAndRevokesAtATimeLosesNothing) {
  Authority::create(folder_, "garden", {});
  std::vector<std::thread> threads;
  for (uint64_t worker = 0; worker < 4; ++worker) {
    threads.emplace_back([this, worker] {
      for (uint64_t i = 0; i < 5; ++i) {
        Authority authority = Authority::open(folder_);
        authority.issue(10 * worker + i, 1);
        if (i == 2) authority.revoke(concat(10 * worker + i));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(revoked_serials(folder_ / "index.json").size(), 4U);
  for (uint64_t worker = 0; worker < 4; ++worker)
    for (const uint64_t i : {0, 1, 3, 4})
      EXPECT_EQ(Authority::open(folder_).revoke(concat(10 * worker + i)), 1U);
}

TEST_F(CertificatesTest, AKeyThatSystemdHandsOverMayBeTheGroups) {
  Authority::create(folder_, "garden", {}).issue(1, 1);
  const fs::path key = folder_ / "clients/client-1.key";
  ASSERT_EQ(::chmod(key.c_str(), 0440), 0);
  EXPECT_THROW(client(1), Error);
  ASSERT_EQ(::setenv("CREDENTIALS_DIRECTORY", (folder_ / "clients").c_str(), 1), 0);
  EXPECT_NO_THROW(client(1));
  ASSERT_EQ(::chmod(key.c_str(), 0444), 0);
  EXPECT_THROW(client(1), Error);
  ::unsetenv("CREDENTIALS_DIRECTORY");
}

TEST(Loopback, IsThisMachineAlone) {
  for (const char* address : {"127.0.0.1:80", "127.9.9.9:1", "localhost:8443", "[::1]:443"})
    EXPECT_TRUE(is_loopback(address)) << address;
  for (const char* address : {"0.0.0.0:80", "127.example.com:80", "10.0.0.7:1", "[::]:1", "host:9",
                              "localhost.example:1", ":80"})
    EXPECT_FALSE(is_loopback(address)) << address;
}

TEST_F(CertificatesTest, RefuseWhatWouldNotWork) {
  Authority authority = Authority::create(folder_, "garden", {});
  authority.issue(1, 9);
  authority.issue(2, 9);
  EXPECT_NO_THROW(client(1));
  EXPECT_THAT(error_of([&] { Authority::create(folder_, "garden", {}); }), HasSubstr("already"));
  EXPECT_THAT(error_of([&] { Authority::open(folder_ / "clients"); }), HasSubstr("pki init"));
  EXPECT_THAT(error_of([&] { Authority::create(folder_ / "x", "a b", {}); }), HasSubstr("name"));
  EXPECT_THAT(error_of([&] { Authority::create(folder_ / "x", "a", {"h,URI:espalier://a"}); }),
              HasSubstr("host name"));
  EXPECT_FALSE(fs::exists(folder_ / "x"));
  const auto with = [&](const fs::path& ca, const fs::path& certificate, const fs::path& key) {
    return error_of([&] { read_credentials(ca, certificate, key); });
  };
  const fs::path ca = folder_ / "ca.pem", one = folder_ / "clients/client-1.pem",
                 key = folder_ / "clients/client-1.key";
  EXPECT_THAT(with(ca, one, folder_ / "clients/client-2.key"), HasSubstr("is not the key of"));
  EXPECT_THAT(with(ca, one, ""), HasSubstr("security.key is missing"));
  EXPECT_THAT(with(folder_ / "no.pem", one, key), HasSubstr("is not there"));
  EXPECT_THAT(with(key, one, key), HasSubstr("no certificate"));
  ::chmod(key.c_str(), 0644);
  EXPECT_THAT(with(ca, one, key), HasSubstr("chmod 600"));
  ::chmod(key.c_str(), 0600);
  const fs::path other = folder_ / "other";
  Authority::create(other, "garden", {}).issue(1, 9);
  EXPECT_THAT(with(other / "ca.pem", one, key), HasSubstr("is not from the CA"));
}

TEST_F(CertificatesTest, ARunningServerHearsOfRevocations) {
  Authority authority = Authority::create(folder_, "garden", {});
  const std::string serial = read_certificate(read_text_file(authority.issue(1, 9))).serial;
  Revocations list(folder_ / "index.json");
  EXPECT_FALSE(list.contains(serial));
  authority.revoke("1");
  for (int i = 0; i < 100 && !list.contains(serial); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(list.contains(serial));
  fs::remove(folder_ / "index.json");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  EXPECT_TRUE(list.contains(serial));
}

TEST(ClientUri, HasOneSpelling) {
  uint64_t client = 9;
  EXPECT_TRUE(parse_client_uri("espalier://f/client/0", "f", client));
  EXPECT_EQ(client, 0U);
  for (const char* bad :
       {"espalier://f/client/", "espalier://f/client/01", "espalier://f/client/1x",
        "espalier://f/client/-1", "espalier://g/client/1", "espalier://f/client/1/2",
        "espalier://f/client/99999999999999999999", "https://f/client/1", ""}) {
    EXPECT_FALSE(parse_client_uri(bad, "f", client)) << bad;
  }
}

}  // namespace
}  // namespace espalier::rpc
