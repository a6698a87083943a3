#include "espalier/data/values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "espalier/base/test_error.h"
#include "espalier/data/handed_over.h"

namespace espalier::data {
namespace {

using testing::HasSubstr;

TEST(Values, BorrowedOnesAreSharedUntilTheyAreChanged) {
  const auto memory = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4});
  const auto view = std::span<const float>(*memory);
  const Values<float> borrowed = Values<float>::borrow(view, memory);
  Values<float> copy = borrowed;
  EXPECT_TRUE(copy.borrowed());
  EXPECT_EQ(std::as_const(copy).data(), memory->data());
  copy.keep(1, 2);
  EXPECT_TRUE(copy.borrowed());
  EXPECT_EQ(std::as_const(copy)[0], 2);
  EXPECT_EQ(copy.size(), 2U);
  copy[0] = 9;
  EXPECT_FALSE(copy.borrowed());
  EXPECT_EQ((*memory)[1], 2);
  EXPECT_EQ(copy, Values<float>(AlignedVector<float>{9, 3}));
  EXPECT_EQ(borrowed.size(), 4U);
}

// Of its own, so that the compiler does not guess at sizes.
[[gnu::noinline]] Values<uint8_t> begun() {
  Values<uint8_t> values;
  EXPECT_TRUE(values.empty());
  values.push_back(5);
  const std::vector<int> more = {6, 7, 8};
  values.insert(values.end(), more.begin(), more.end());
  return values;
}

TEST(Values, OwnOnesAreAVector) {
  Values<uint8_t> values = begun();
  values.keep(1, values.size() / 2);
  ASSERT_EQ(values.size(), 2U);
  EXPECT_EQ(values[0], 6);
  EXPECT_EQ(values[1], 7);
}

TEST(HandedOver, IsFoundWhileItLives) {
  DataOptions options;
  options.name = "memory";
  options.max_train_samples = 3;
  LoadedData data;
  for (Dataset* part : {&data.train, &data.test}) {
    part->name = "mine";
    part->kind = Kind::kFloat;
    part->sample_shape = {2};
    part->num_classes = 2;
    part->floats = AlignedVector<float>{1, 2, 3, 4, 5, 6, 7, 8};
    part->labels = {0, 1, 1, 0};
  }
  EXPECT_THAT(error_of([&] { load_dataset(options, Key(1)); }), HasSubstr("handed over"));
  {
    const HandedOver here(std::move(data));
    const DataSource source = load_dataset(options, Key(1));
    EXPECT_EQ(source.train->size(), 3U);
    EXPECT_EQ(source.test->size(), 4U);
    EXPECT_EQ(source.train->floats[5], 6);
  }
  EXPECT_THROW(load_dataset(options, Key(1)), Error);
}

}  // namespace
}  // namespace espalier::data
