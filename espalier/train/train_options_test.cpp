#include "espalier/train/train_options.h"

#include <gtest/gtest.h>

namespace espalier::train {
namespace {

TEST(Trainer, LearningRateSchedules) {
  ScheduleOptions options;
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 57, 100), 0.8);
  options.lr_schedule = "step";
  options.lr_decay = 0.5;
  options.lr_step_rounds = 10;
  options.lr_warmup_rounds = 4;
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 0, 100), 0.2);
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 3, 100), 0.8);
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 13, 100), 0.8);
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 14, 100), 0.4);
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 34, 100), 0.1);
  options.lr_schedule = "cosine";
  EXPECT_DOUBLE_EQ(lr_at_round(options, 0.8, 4, 104), 0.8);
  EXPECT_NEAR(lr_at_round(options, 0.8, 54, 104), 0.4, 1e-12);
  EXPECT_NEAR(lr_at_round(options, 0.8, 104, 104), 0.0, 1e-12);
}

}  // namespace
}  // namespace espalier::train
