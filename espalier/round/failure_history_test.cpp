#include "espalier/round/failure_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "espalier/round/exchange.h"

namespace espalier::round {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kAsked[] = {4, 0, 2, 1};

TEST(FailureHistory, OneClientThatAlwaysFailsIsNamedOnce) {
  FailureHistory history(9);
  EXPECT_THAT(history.add(kAsked, {{2, "after 3 steps"}}).notes, IsEmpty());
  const auto second = history.add(kAsked, {{2, "after 17 steps"}});
  EXPECT_THAT(second.notes, ElementsAre("client 2 failed in each of 2 rounds that it took part in, "
                                        "always for the same reason: after 17 steps"));
  EXPECT_EQ(second.end, "");
  EXPECT_THAT(history.add(kAsked, {{2, "after 1 steps"}}).notes, IsEmpty());
}

TEST(FailureHistory, AClientThatAnswersOrFailsOtherwiseBeginsAnew) {
  FailureHistory history(9);
  history.add(kAsked, {{2, "a"}});
  EXPECT_THAT(history.add(kAsked, {{2, "b"}}).notes, IsEmpty());
  history.add(kAsked, {});
  EXPECT_THAT(history.add(kAsked, {{2, "b"}}).notes, IsEmpty());
}

TEST(FailureHistory, HalfOfTheClientsInTwoRoundsEndTheRun) {
  FailureHistory history(9);
  EXPECT_EQ(history.add(kAsked, {{0, "one"}, {2, "one"}}).end, "");
  const auto second = history.add(kAsked, {{0, "one"}, {4, "one"}});  // not the same clients
  EXPECT_THAT(second.end, HasSubstr("2 of 4 clients (clients 0 and 4)"));
  EXPECT_THAT(second.notes, ElementsAre(HasSubstr("client 0 ")));
}

TEST(FailureHistory, LessThanHalfOrDifferentReasonsDoNot) {
  FailureHistory history(9);
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(history.add(kAsked, {{0, "one"}, {2, "two"}}).end, "");
  }
}

TEST(FailureHistory, SilenceIsNoReason) {
  FailureHistory history(9);
  for (int round = 0; round < 5; ++round) {
    const auto verdict = history.add(kAsked, {{0, kNoAnswer}, {1, kNoAnswer}, {2, kNoAnswer}});
    EXPECT_EQ(verdict.end, "");
    EXPECT_THAT(verdict.notes, IsEmpty());
  }
}

TEST(FailureHistory, ARunOfOneRoundNeedsOne) {
  EXPECT_THAT(FailureHistory(1).add(kAsked, {{0, "one"}, {2, "one"}}).end,
              HasSubstr("the only round"));
}

}  // namespace
}  // namespace espalier::round
