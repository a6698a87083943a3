#include "espalier/report/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "espalier/report/human.h"

namespace espalier::report {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

struct Screen {
  std::string text;
  double time = 100;
  size_t width = 100;

  ProgressOptions options(ProgressMode mode, uint64_t rounds) {
    ProgressOptions options;
    options.rounds = rounds;
    options.mode = mode;
    options.write = [this](std::string_view part) { text += part; };
    options.columns = [this] { return width; };
    options.now = [this] { return time; };
    options.utf8 = true;
    return options;
  }
  // What the terminal shows in its last line.
  std::string last_line() const {
    std::string line = text.substr(text.rfind('\r') + 1);
    if (const size_t end = line.find("\x1b[K"); end != line.npos) line.resize(end);
    return line;
  }
};

Json round_line(int round) {
  return {{"round", round},
          {"accuracy", 0.5},
          {"loss", 1.25},
          {"bytes_down_total", 3'000'000 * round},
          {"bytes_up_total", 1'000'000 * round}};
}

TEST(Progress, PlainLinesOnePerRound) {
  Screen screen;
  Progress progress(screen.options(ProgressMode::kLines, 4));
  screen.time += 10;
  progress.finish_round(round_line(1));
  EXPECT_EQ(
      screen.text,
      "round 1/4  accuracy 50.00%  loss 1.250  3.00 MB down  1.00 MB up  10.0 s  30.0 s left\n");
  screen.text.clear();
  screen.time += 10;
  progress.finish_round({{"round", 2}, {"train_loss", 0.75}});
  EXPECT_EQ(screen.text, "round 2/4  train loss 0.750  0 B down  0 B up  20.0 s  20.0 s left\n");
  progress.finish();
  EXPECT_THAT(screen.text, EndsWith("left\n")) << "nothing more is said at the end";
}

TEST(Progress, LongRoundsReportTheirClientsLessAndLessOften) {
  Screen screen;
  Progress progress(screen.options(ProgressMode::kLines, 2));
  for (int second = 0; second < 100; ++second) {
    progress.update_clients(static_cast<uint64_t>(second), 100);
    screen.time += 1;
  }
  EXPECT_THAT(screen.text, StartsWith("round 1: 2 of 100 clients done, 2.00 s\nround 1: 4 of 100"));
  const auto lines = std::count(screen.text.begin(), screen.text.end(), '\n');
  EXPECT_GE(lines, 5);
  EXPECT_LE(lines, 8);
}

TEST(Progress, TheBarFitsEveryWidth) {
  for (size_t width = 1; width <= 200; ++width) {
    Screen screen;
    screen.width = width;
    Progress progress(screen.options(ProgressMode::kBar, 120));
    screen.time += 75;
    progress.finish_round(round_line(60));
    screen.time += 1;
    progress.update_clients(3, 10);
    EXPECT_LT(display_width(screen.last_line()), width) << screen.last_line();
    if (width >= 120) {
      EXPECT_THAT(screen.last_line(), StartsWith("round 61/120  ━"));
      EXPECT_THAT(screen.last_line(), HasSubstr("1:16 (1:14 left)"));
      EXPECT_THAT(screen.last_line(), HasSubstr("clients 3/10"));
      EXPECT_THAT(screen.last_line(), HasSubstr("240 MB"));
    }
    if (width >= 40) {
      EXPECT_THAT(screen.last_line(), HasSubstr("50.00%"));
    }
  }
}

TEST(Progress, ANoteDoesNotDamageTheBarAndFinishEndsTheLine) {
  Screen screen;
  Progress progress(screen.options(ProgressMode::kBar, 3));
  screen.text.clear();
  progress.note("client 7 failed: NaN");
  EXPECT_THAT(screen.text, StartsWith("\r\x1b[Kclient 7 failed: NaN\n\rround 0/3"));
  progress.finish();
  progress.finish();
  EXPECT_THAT(screen.text, EndsWith("\x1b[K\n"));
}

TEST(Progress, RedrawsAreLimitedToTenPerSecond) {
  Screen screen;
  Progress progress(screen.options(ProgressMode::kBar, 3));
  screen.text.clear();
  for (uint64_t i = 0; i < 1000; ++i) {
    progress.update_clients(i, 1000);
    screen.time += 0.001;
  }
  EXPECT_LE(std::count(screen.text.begin(), screen.text.end(), '\r'), 11);
  EXPECT_GE(std::count(screen.text.begin(), screen.text.end(), '\r'), 8);
}

TEST(Progress, MayBeCalledByManyThreads) {
  Screen screen;
  Progress progress(screen.options(ProgressMode::kLines, 1));
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (uint64_t i = 0; i < 500; ++i) progress.note("line");
    });
  }
  threads.clear();
  EXPECT_EQ(screen.text.size(), 4u * 500u * 5u);
}

TEST(Progress, AResumedRunEstimatesFromItsOwnRounds) {
  Screen screen;
  ProgressOptions options = screen.options(ProgressMode::kLines, 20);
  options.rounds_completed = 10;
  Progress progress(options);
  screen.time += 6;
  progress.finish_round(round_line(11));
  EXPECT_THAT(screen.text, HasSubstr("54.0 s left"));
}

TEST(Progress, AsciiWhereUtf8CannotBeShownAndQuietSaysNothing) {
  Screen screen;
  ProgressOptions options = screen.options(ProgressMode::kBar, 2);
  options.utf8 = false;
  {
    Progress progress(options);
    progress.finish_round(round_line(1));
  }
  EXPECT_THAT(screen.text, HasSubstr("#"));
  EXPECT_THAT(screen.text, Not(HasSubstr("━")));

  Screen quiet;
  Progress progress(quiet.options(ProgressMode::kQuiet, 2));
  progress.update_clients(1, 2);
  progress.finish_round(round_line(1));
  progress.note("unseen");
  progress.finish();
  EXPECT_EQ(quiet.text, "");
}

}  // namespace
}  // namespace espalier::report
