#include "espalier/train/evaluation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace espalier::train {
namespace {

using Counts = std::vector<ClassCount>;

// Logits that predict these classes.
std::vector<float> logits_of(const std::vector<size_t>& predicted, size_t outputs) {
  std::vector<float> logits(predicted.size() * outputs, -1);
  for (size_t i = 0; i < predicted.size(); ++i) logits[i * outputs + predicted[i]] = 2;
  return logits;
}

TEST(CountClasses, CountsWhatIsFound) {
  const std::vector<int64_t> labels = {0, 2, 2, 0, 2};
  const std::vector<size_t> predicted = {0, 2, 0, 1, 2};
  // Three classes, outputs that no class has, and more classes than are counted in place.
  for (const size_t outputs : {3, 7, 128, 129, 5000}) {
    EXPECT_EQ(count_classes(labels, logits_of(predicted, outputs)), (Counts{{0, 2, 1}, {2, 3, 2}}))
        << outputs;
  }
  EXPECT_EQ(count_classes({}, {}), Counts{});
  // Of equal logits the first is the prediction, as in the loss.
  EXPECT_EQ(count_classes(std::vector<int64_t>{0, 1}, std::vector<float>(4, 1)),
            (Counts{{0, 1, 1}, {1, 1, 0}}));
  // Whatever the logits are: as the first largest one is found.
  const float odd[] = {0, 1, -1, NAN, INFINITY, -INFINITY};
  std::vector<float> logits;
  for (int i = 0; i < 6 * 6 * 6; ++i) {
    for (const int part : {i % 6, i / 6 % 6, i / 36}) logits.push_back(odd[part]);
  }
  for (int64_t label = 0; label < 3; ++label) {
    uint64_t expected = 0;
    for (auto row = logits.begin(); row != logits.end(); row += 3)
      expected += std::max_element(row, row + 3) - row == label ? 1U : 0U;
    const Counts found = count_classes(std::vector<int64_t>(216, label), logits);
    EXPECT_EQ(found[0].correct, expected) << label;
  }
}

TEST(EvalSums, AddByClass) {
  EvalSums sums{1, 1, 2, {{1, 1, 1}, {4, 1, 0}}};
  sums += EvalSums{2, 3, 4, {{0, 1, 1}, {4, 2, 1}, {9, 1, 1}}};
  EXPECT_EQ(sums.loss, 3);
  EXPECT_EQ(sums.correct, 4U);
  EXPECT_EQ(sums.count, 6U);
  EXPECT_EQ(sums.classes, (Counts{{0, 1, 1}, {1, 1, 1}, {4, 3, 1}, {9, 1, 1}}));
  sums += EvalSums{};
  EXPECT_EQ(sums.classes.size(), 4U);
  EvalSums empty;
  empty += sums;
  EXPECT_EQ(empty.classes, sums.classes);
}

TEST(ClassFigures, EveryClassCountsAlike) {
  EXPECT_FALSE(class_figures({}));
  const auto rare = class_figures(Counts{{0, 97, 97}, {1, 3, 0}});
  EXPECT_EQ(rare->balanced_accuracy, 0.5);
  EXPECT_EQ(rare->never_found, (std::vector<int64_t>{1}));
  const auto some = class_figures(Counts{{0, 4, 1}, {2, 2, 1}, {7, 10, 9}});
  EXPECT_DOUBLE_EQ(some->balanced_accuracy, (0.25 + 0.5 + 0.9) / 3);
  EXPECT_TRUE(some->never_found.empty());
}

}  // namespace
}  // namespace espalier::train
