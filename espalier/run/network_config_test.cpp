#include "espalier/run/network_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "espalier/base/config.h"
#include "espalier/base/error.h"

namespace espalier::run {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(NetworkConfigs, AFolderOfCertificatesTakesThePlaceOfWhatWasNamedBefore) {
  // As a run's own configuration has it: every file by its name.
  Json tree = parse_toml(
      "[security]\npki = \"/old\"\nca = \"/old/ca.pem\"\ncert = \"/old/server.pem\"\n"
      "key = \"/old/server.key\"\nrevoked = \"/old/index.json\"\nmax_samples = 5\n",
      "test");
  use_pki("/new", tree);
  const SecuritySection now = read_network_config(tree).security;
  EXPECT_EQ(now.ca, "/new/ca.pem");
  EXPECT_EQ(now.cert, "/new/server.pem");
  EXPECT_EQ(now.key, "/new/server.key");
  EXPECT_EQ(now.revoked, "/new/index.json");
  EXPECT_EQ(now.max_samples, 5);
}

TEST(NetworkConfigs, AServiceThatStartsAgainHeedsTheNetworksKeysAndSaysWhatElseDiffers) {
  Json run = parse_toml(
      "rounds = 9\n[train]\nlr = 0.1\nepochs = 1\n[data]\nroot = \"/d/x\"\n[server]\n"
      "round_deadline_s = 10.0\n[[uplink]]\nstage = \"quantize\"\nbits = 4\nseed = 0\n",
      "test");
  const Json file = parse_toml(
      "rounds = 12\n[train]\nlr = 0.2\nepochs = 1\n[data]\nroot = \"/d/y/../x\"\n[server]\n"
      "round_deadline_s = 20\n[[uplink]]\nstage = \"quantize\"\nbits = 4\n",
      "test");
  Json same = run;
  EXPECT_THAT(take_network(file, "net.toml", {"rounds=12", "train.lr=0.2"}, same), IsEmpty());
  EXPECT_THAT(take_network(file, "net.toml", {}, run),
              ElementsAre("net.toml says rounds = 12, and the run goes on with 9",
                          "net.toml says train.lr = 0.2, and the run goes on with 0.1"));
  EXPECT_EQ(read_network_config(run).server.round_deadline_s, 20);
  EXPECT_EQ(run["rounds"], 9);
}

class FailedStart : public testing::Test {
 protected:
  FailedStart() { fs::create_directories(folder_ / "server" / "spool" / "kept"); }
  ~FailedStart() override { fs::remove_all(folder_); }
  void touch(const fs::path& file) const { std::ofstream(folder_ / file) << "x"; }
  const fs::path folder_ = fs::path(testing::TempDir()) / concat("start-", ::getpid());
};

TEST_F(FailedStart, LeavesNothingOfItsOwn) {
  touch("server/run");
  touch("server/events.jsonl");
  clear_failed_start(folder_);
  EXPECT_FALSE(fs::exists(folder_ / "server"));
  EXPECT_NO_THROW(clear_failed_start(folder_ / "never"));
}

TEST_F(FailedStart, TouchesNothingOfAnybodyElse) {
  touch("notes.txt");
  clear_failed_start(folder_);
  EXPECT_TRUE(fs::exists(folder_ / "server"));
  fs::remove(folder_ / "notes.txt");
  touch("server/main.cpp");
  clear_failed_start(folder_);
  EXPECT_TRUE(fs::exists(folder_ / "server" / "main.cpp"));
  EXPECT_FALSE(fs::exists(folder_ / "run.lock"));
}

}  // namespace
}  // namespace espalier::run
