#include "espalier/run/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "espalier/base/test_error.h"

namespace espalier::run {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class Replays : public testing::Test {
 protected:
  ~Replays() override { fs::remove(file_); }
  Replay read(const std::string& text) {
    std::ofstream(file_) << text;
    return read_replay(file_);
  }
  const fs::path file_ = fs::temp_directory_path() / ("events-" + std::to_string(::getpid()));
};

TEST_F(Replays, TheLastAttemptCountsAndWhatWasNeverClosedDoesNot) {
  const Replay replay = read(R"({"time":"x","event":"joined","client":1}
{"event":"opened","round":1,"exchange":0,"attempt":1,"clients":[3,1,2]}
{"event":"closed","round":1,"exchange":0,"attempt":1,"answered":1,"missing":[1,2]}
{"event":"opened","round":1,"exchange":0,"attempt":2,"clients":[3,1,2]}
{"event":"accepted","round":1,"exchange":0,"client":3}
{"event":"closed","round":1,"exchange":0,"attempt":2,"answered":2,"missing":[2]}
{"event":"opened","round":2,"exchange":0,"attempt":1,"clients":[4]}
{"event":"closed","round":2,"exchange":0,"attempt":1,"answered":0,"missing":[4],"counted":false}
{"event":"opened","round":2,"exchange":0,"attempt":2,"clients":[4]}
{"event":"cl
{"event":"clo)");
  ASSERT_EQ(replay.exchanges.size(), 1U);
  EXPECT_THAT(replay.exchanges.at({1, 0}).clients, ElementsAre(3, 1, 2));
  EXPECT_THAT(replay.exchanges.at({1, 0}).missing, ElementsAre(2));
}

TEST_F(Replays, SaysWhichLineIsNoEvent) {
  EXPECT_THAT(error_of([&] { read("{\"event\":\"opened\"}\n{}\n"); }), HasSubstr("line 1"));
  EXPECT_THAT(error_of([&] { read("nonsense\n{}\n"); }), HasSubstr("line 2"));
  EXPECT_THAT(error_of([&] { read("{\"event\":\"left\"}\n"); }), HasSubstr("no round"));
}

}  // namespace
}  // namespace espalier::run
