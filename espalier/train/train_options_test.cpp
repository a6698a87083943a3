#include "espalier/train/train_options.h"

#include <gtest/gtest.h>

namespace espalier::train {
namespace {

TEST(Trainer, LearningRateSchedules) {
  ScheduleOptions options;
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 57), 0.8);
  options.lr_schedule = "step";
  options.lr_decay = 0.5;
  options.lr_step_rounds = 10;
  options.lr_warmup_rounds = 4;
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 0), 0.2);
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 3), 0.8);
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 13), 0.8);
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 14), 0.4);
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 34), 0.1);
  options.lr_schedule = "cosine";
  options.schedule_rounds = 104;
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 4), 0.8);
  EXPECT_NEAR(lr_at_round(options, 0.8, 54), 0.4, 1e-12);
  // Beyond its rounds it keeps its last rate: a run that is made longer does not begin anew.
  const double last = lr_at_round(options, 0.8, 103);
  EXPECT_GT(last, 0);
  EXPECT_LT(last, 0.001);
  EXPECT_EQ(lr_at_round(options, 0.8, 104), last);
  EXPECT_EQ(lr_at_round(options, 0.8, 5000), last);
}

}  // namespace
}  // namespace espalier::train
