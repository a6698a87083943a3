#include "espalier/data/notes.h"

#include <gmock/gmock.h>

#include "espalier/data/test_files.h"

namespace espalier::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Random values around 0; `labels` in turn.
Dataset values(std::vector<int64_t> shape, size_t count, std::vector<int32_t> labels,
               uint64_t seed) {
  Dataset dataset;
  dataset.name = "test";
  dataset.kind = Kind::kFloat;
  dataset.sample_shape = std::move(shape);
  dataset.num_classes = 3;
  Stream stream{Key(seed)};
  for (size_t i = 0; i < count * dataset.sample_size(); ++i)
    dataset.floats.push_back(static_cast<float>(stream.normal()));
  for (size_t i = 0; i < count; ++i) dataset.labels.push_back(labels[i % labels.size()]);
  dataset.validate();
  return dataset;
}

std::vector<std::string> notes(const Dataset& train, const Dataset& test) {
  std::vector<std::string> found;
  add_notes(train, test, found);
  for (const std::string& note : found) EXPECT_LT(note.size(), 220U) << note;
  return found;
}

TEST(Notes, OrdinaryDataHaveNone) {
  EXPECT_THAT(notes(values({8}, 100, {0, 1, 2}, 1), values({8}, 50, {0, 1, 2}, 2)), IsEmpty());
  EXPECT_THAT(notes(values({3, 9, 9}, 9, {0, 1, 2}, 1), values({3, 9, 9}, 3, {0, 1, 2}, 2)),
              IsEmpty());
}

TEST(Notes, Classes) {
  const Dataset three = values({8}, 60, {0, 1, 2}, 1), two = values({8}, 60, {0, 1}, 2),
                one = values({8}, 60, {1}, 3);
  EXPECT_THAT(notes(one, values({8}, 60, {1}, 4)),
              ElementsAre(HasSubstr("all training samples are of class 1")));
  EXPECT_THAT(notes(two, three), ElementsAre(HasSubstr("the training samples lack class 2, which "
                                                       "20 of 60 test samples are of")));
  EXPECT_THAT(notes(three, one), ElementsAre(HasSubstr("the test samples lack classes 0 and 2, "
                                                       "which 40 of 60 training samples are of")));
  std::vector<int32_t> rare(100, 0);
  rare[7] = rare[50] = rare[99] = 1;
  EXPECT_THAT(notes(values({8}, 100, rare, 1), values({8}, 100, rare, 2)),
              ElementsAre(HasSubstr("97.0% of the training samples are of class 0")));
}

TEST(Notes, ChannelsLast) {
  for (const int64_t channels : {1, 3, 4}) {
    EXPECT_THAT(notes(values({12, 12, channels}, 9, {0, 1, 2}, 1),
                      values({12, 12, channels}, 3, {0, 1, 2}, 2)),
                ElementsAre(HasSubstr("read as 12 channels of 12×")));
  }
}

TEST(Notes, Scale) {
  Dataset pixels = values({1, 6, 6}, 30, {0, 1, 2}, 1), test = values({1, 6, 6}, 3, {0, 1, 2}, 2);
  for (size_t i = 0; i < pixels.floats.size(); ++i)
    pixels.floats[i] = static_cast<float>((i * 37) % 256);
  EXPECT_THAT(notes(pixels, test), ElementsAre(HasSubstr("from 0 to 255 look like pixels")));
  Dataset flat = pixels;
  flat.sample_shape = {36};  // 36 whole numbers may be anything
  test.sample_shape = {36};
  EXPECT_THAT(notes(flat, test), IsEmpty());
  flat.floats[5] = -90000;
  EXPECT_THAT(notes(flat, test),
              ElementsAre(HasSubstr("inputs reach -90000 and are used as they")));
}

TEST(Notes, TestSamplesThatAreTrainingSamples) {
  Dataset train = values({8}, 300, {0, 1, 2}, 1), test = values({8}, 90, {0, 1, 2}, 2);
  std::copy_n(train.floats.begin() + 80, 8 * 20, test.floats.begin() + 16);
  EXPECT_THAT(notes(train, test),
              ElementsAre(HasSubstr("[data] 20 of 90 test samples are training samples as well")));
  // Pixels and tokens too.
  Dataset text = train, text_test = test;
  for (Dataset* part : {&text, &text_test}) {
    part->kind = Kind::kTokens;
    part->vocabulary = 1 << 20;
    for (const float value : part->floats)
      part->tokens.push_back(static_cast<int32_t>(value * 1e5f) & ((1 << 20) - 1));
    part->floats.clear();
    part->validate();
  }
  EXPECT_EQ(find_overlap(text, text_test).found, 20U);
  // Few values repeat by themselves: six yes-or-no answers, or rows that are nearly always empty.
  for (const float above : {0.0f, 2.4f}) {
    Dataset few = values({above > 0 ? 8 : 6}, 400, {0, 1, 2}, 1),
            few_test = values({above > 0 ? 8 : 6}, 100, {0, 1, 2}, 2);
    for (Dataset* part : {&few, &few_test})
      for (float& value : part->floats) value = value > above ? 1.0f : 0.0f;
    EXPECT_GT(find_overlap(few, few_test).found, 80U);
    EXPECT_THAT(notes(few, few_test), IsEmpty());
  }
}

TEST(Notes, ManySamplesAreLookedAtInPart) {
  const Dataset train = values({4}, 20'000, {0, 1, 2}, 1);
  const Overlap same = find_overlap(train, train);
  EXPECT_FALSE(same.complete);
  EXPECT_EQ(same.repeated, 0U);
  EXPECT_GT(same.found, same.examined / 5);
  EXPECT_EQ(find_overlap(train, values({4}, 20'000, {0, 1, 2}, 2)).found, 0U);
}

TEST(Notes, ClassList) {
  const std::vector<int64_t> classes = {3, 5, 6, 7, 8, 9, 11};
  EXPECT_EQ(class_list(std::span(classes).first(1), 12), "class 3");
  EXPECT_EQ(class_list(std::span(classes).first(3), 12), "classes 3, 5 and 6");
  EXPECT_EQ(class_list(classes, 12), "7 of 12 classes (3, 5, 6, 7, 8, …)");
}

}  // namespace
}  // namespace espalier::data
