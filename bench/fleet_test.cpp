#include "bench/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/test_error.h"

namespace espalier::bench {
namespace {

FleetOptions small() {
  FleetOptions options;
  options.devices = 4000;
  options.hours = 1.5;
  options.goal = 20;
  options.deadline_s = 120;
  return options;
}

uint64_t sum(const std::vector<uint32_t>& values) {
  return std::accumulate(values.begin(), values.end(), uint64_t{0});
}

// What has to hold of any day, counted in ways that have nothing to do with each other.
void check(const FleetOptions& options, const FleetResult& r) {
  EXPECT_EQ(r.asked, r.updates + r.late + r.dropped + r.lost + r.at_work);
  EXPECT_EQ(r.opened, r.finished + r.abandoned + r.interrupted + r.running);
  EXPECT_EQ(r.checkins, r.held + r.sent_away);
  EXPECT_EQ(r.checkins, sum(r.checkins_by_second));
  uint64_t checkins = 0, sent_away = 0, unanswered = 0;
  for (const FleetResult::Minute& minute : r.minutes) {
    checkins += minute.checkins;
    sent_away += minute.sent_away;
    unanswered += minute.unanswered;
    EXPECT_LE(minute.active, static_cast<double>(options.devices));
  }
  EXPECT_EQ(checkins, r.checkins);
  EXPECT_EQ(sent_away, r.sent_away);
  EXPECT_EQ(unanswered, r.unanswered);
  EXPECT_EQ(r.rounds.size(), r.finished + r.abandoned);
  uint64_t asked = 0, answered = 0;
  double opened = -1e9;
  for (const FleetResult::Round& round : r.rounds) {
    asked += round.asked;
    answered += round.answered;
    EXPECT_LE(round.begun_s, round.opened_s);
    EXPECT_LE(round.opened_s, round.closed_s);
    EXPECT_LE(round.closed_s, round.opened_s + options.deadline_s + 1e-6);
    EXPECT_GE(round.opened_s, opened + options.period_s - 1e-6);
    EXPECT_LE(round.answered, options.goal);
    EXPECT_EQ(round.counted,
              round.answered >= options.min_fraction * static_cast<double>(std::min<uint64_t>(
                                                           options.goal, round.asked)));
    opened = round.opened_s;
  }
  // A round that was interrupted or still runs has asked and perhaps heard the rest.
  const uint64_t open = r.interrupted + r.running;
  EXPECT_GE(r.asked, asked);
  EXPECT_LE(r.asked, asked + open * 3 * options.goal);
  EXPECT_GE(r.updates, answered);
  EXPECT_LE(r.updates, answered + open * options.goal);
  uint64_t devices = 0, given = 0;
  for (size_t updates = 0; updates < r.devices_by_updates.size(); ++updates) {
    devices += r.devices_by_updates[updates];
    given += updates * r.devices_by_updates[updates];
  }
  EXPECT_EQ(devices, options.devices);
  EXPECT_EQ(given, r.updates);
}

TEST(Fleet, EveryDeviceThatIsAskedEndsInOneWay) {
  const FleetOptions options = small();
  const FleetResult r = Fleet(options).run();
  check(options, r);
  EXPECT_GT(r.finished, 60U);
  EXPECT_GT(r.late, 0U);
  EXPECT_GT(r.dropped, 0U);
  EXPECT_EQ(r.lost + r.unanswered + r.interrupted, 0U);
  EXPECT_NEAR(r.drop_out, 0.1, 0.05);
}

TEST(Fleet, ARestartLosesTheRoundThatRuns) {
  FleetOptions options = small();
  options.restart_at_h = 0.75;
  options.outage_s = 60;
  const FleetResult r = Fleet(options).run();
  check(options, r);
  EXPECT_GT(r.unanswered, 0U);
  EXPECT_LE(r.interrupted, 1U);
  EXPECT_GT(r.lost, 0U);
  for (const FleetResult::Round& round : r.rounds)
    EXPECT_FALSE(round.opened_s > 2700 && round.opened_s < 2760) << "the server is away";
  EXPECT_GT(r.rounds.back().opened_s, 4500) << "and goes on";
}

TEST(Fleet, AFleetThatNobodyKnowsYet) {
  FleetOptions options = small();
  options.new_within_h = 0.25;
  options.drop_out = 0;
  options.noon = options.night = 1;
  const FleetResult r = Fleet(options).run();
  check(options, r);
  EXPECT_EQ(r.dropped, 0U);
  EXPECT_GE(r.checkins, options.devices);
  // Everybody is about, and has come.
  EXPECT_NEAR(r.minutes[40].active, 4000, 1);
  // They come in waves, which the measure of an hour sees.
  EXPECT_GE(r.minutes.back().active, 2500);
}

TEST(Fleet, ManyThatVanishAbandonRounds) {
  FleetOptions options = small();
  options.drop_out = 0.8;
  const FleetResult r = Fleet(options).run();
  check(options, r);
  EXPECT_GT(r.abandoned, 0U);
  EXPECT_EQ(r.rounds.back().asked, 60U) << "three times as many as are needed, and no more";
}

TEST(Fleet, FewComeTogetherForRoundsThatAreFarApart) {
  FleetOptions options = small();
  options.devices = 40;
  options.hours = 20;
  options.period_s = 3600;
  options.noon = options.night = 1;
  const FleetResult r = Fleet(options).run();
  check(options, r);
  EXPECT_GE(r.finished, 18U);
  // Nobody waits three minutes before a round opens, and all are there when it does.
  const double opened = r.rounds[r.rounds.size() - 2].opened_s;
  const auto waiting = [&](double before_s) {
    return r.minutes[static_cast<size_t>((opened - before_s) / 60)].waiting;
  };
  EXPECT_LE(waiting(180), 1U);
  EXPECT_GE(r.rounds[r.rounds.size() - 2].asked, 24U);
  EXPECT_LT(r.rounds[r.rounds.size() - 2].opened_s - r.rounds[r.rounds.size() - 2].begun_s, 30);
  EXPECT_LT(r.checkins, 40U * 20 * 2) << "about one an hour each";
}

TEST(Fleet, TheSameSeedIsTheSameDay) {
  FleetOptions options = small();
  const FleetResult a = Fleet(options).run(), b = Fleet(options).run();
  EXPECT_EQ(a.checkins_by_second, b.checkins_by_second);
  EXPECT_EQ(a.devices_by_updates, b.devices_by_updates);
  options.seed = 2;
  EXPECT_NE(Fleet(options).run().checkins_by_second, a.checkins_by_second);
}

TEST(Fleet, DevicesMayWorkAsTheCurveSays) {
  FleetOptions options;
  options.devices = 20'000;
  options.hours = 48;
  options.zones_h = 0;
  const Fleet fleet(options);
  EXPECT_NEAR(fleet.eligible_share(12), 0.05, 1e-9);
  EXPECT_NEAR(fleet.eligible_share(3), 0.6, 1e-9);
  EXPECT_NEAR(fleet.eligible_share(19.5), 0.325, 1e-9);
  for (const double hour : {0.5, 3.0, 7.5, 13.0, 19.5, 27.0, 40.0}) {
    size_t may = 0;
    for (uint32_t device = 0; device < options.devices; ++device) {
      const Fleet::Span span = fleet.next_span(device, hour * 3600);
      ASSERT_GT(span.to_s, hour * 3600);
      if (span.from_s <= hour * 3600) ++may;
    }
    EXPECT_NEAR(static_cast<double>(may) / 20'000, fleet.eligible_share(std::fmod(hour, 24)), 0.012)
        << hour;
  }
}

TEST(Fleet, AnOptionThatCannotBeIsNamed) {
  FleetOptions options;
  options.drop_out = 1;
  EXPECT_THAT(error_of([&] { Fleet fleet(options); }),
              testing::HasSubstr("--drop-out: expected 0 to 0.99, got 1"));
}

}  // namespace
}  // namespace espalier::bench
