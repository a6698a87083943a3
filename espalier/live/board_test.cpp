#include "espalier/live/board.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace espalier::live {
namespace {

using testing::HasSubstr;

Json line(int round, double accuracy) {
  return {{"round", round},
          {"accuracy", accuracy},
          {"bytes_down_total", 100 * round},
          {"bytes_up_total", 10},
          {"seconds", 2.0},
          {"clients_failed", 1},
          {"wall_seconds", round},
          {"clients", Json::array({1})},
          {"train_loss", nullptr}};
}

TEST(Board, TellsWhatIsNewSinceARound) {
  Board board({{"name", "run"}}, 5);
  EXPECT_EQ(board.status()["state"], "waiting");
  board.set_state("running");
  board.add_round(line(1, 0.5));
  board.add_round(line(2, 0.75));
  board.set_clients(3, 10);
  const Json all = board.status(), part = board.status(1);
  EXPECT_EQ(all["name"], "run");
  EXPECT_EQ(all["series"]["round"], Json::array({1, 2}));
  EXPECT_EQ(part["series"]["round"], Json::array({2}));
  EXPECT_EQ(part["series"]["accuracy"], Json::array({0.75}));
  EXPECT_EQ(part["series"]["train_loss"], Json::array({nullptr}));
  EXPECT_EQ(all["last"]["bytes_down_total"], 200);
  EXPECT_FALSE(all["last"].contains("clients"));
  EXPECT_EQ(all["clients_failed"], 2);
  EXPECT_EQ(all["clients_done"], 3);
  EXPECT_EQ(all["round"], 2);
  // Three rounds of two seconds, less what the third has taken.
  EXPECT_NEAR(all["seconds_left"].get<double>(), 6, 1);
  EXPECT_TRUE(board.status(2)["series"]["round"].empty());
  board.set_state("done");
  EXPECT_FALSE(board.status().contains("seconds_left"));
}

TEST(Board, KeepsTheLastNotes) {
  Board board({}, 1);
  for (int i = 0; i < 60; ++i) board.add_note(std::to_string(i));
  EXPECT_EQ(board.status()["notes"].size(), 50U);
  EXPECT_EQ(board.status()["notes"].back(), "59");
}

TEST(Board, MetricsAreThoseOfPrometheus) {
  Board board({}, 5);
  board.add_round(line(1, 0.5));
  board.set_devices([] {
    return Json::array({{{"connected", true}, {"phase", "training"}},
                        {{"connected", true}, {"phase", "training"}},
                        {{"connected", false}, {"phase", "idle"}}});
  });
  const std::string text = board.metrics();
  EXPECT_THAT(text, HasSubstr("# TYPE espalier_round gauge\nespalier_round 1\n"));
  EXPECT_THAT(text, HasSubstr("espalier_bytes_total{direction=\"down\"} 100\n"
                              "espalier_bytes_total{direction=\"up\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("espalier_accuracy 0.5\n"));
  EXPECT_THAT(text, HasSubstr("espalier_clients{state=\"away\"} 1\n"
                              "espalier_clients{state=\"training\"} 2\n"));
}

}  // namespace
}  // namespace espalier::live
