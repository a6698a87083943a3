#include "espalier/data/partition_summary.h"

#include <gmock/gmock.h>

namespace espalier::data {
namespace {

using ::testing::HasSubstr;

// 12 samples of 3 classes; owner 0 has class 0 alone, owner 1 the others.
Dataset two_owners() {
  Dataset dataset;
  dataset.name = "test";
  dataset.kind = Kind::kFloat;
  dataset.sample_shape = {1};
  dataset.num_classes = 3;
  dataset.floats.resize(12);
  dataset.labels = {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2};
  dataset.client_of_sample = {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1};
  dataset.client_names = {"a", "b"};
  return dataset;
}

TEST(PartitionSummary, CountsAndFigures) {
  const Dataset dataset = two_owners();
  PartitionOptions options;
  options.name = "natural";
  const auto partition = make_partition(options, dataset, Key(1));
  const PartitionSummary summary = summarize(*partition, dataset);
  EXPECT_EQ(summary.class_counts, (std::vector<uint32_t>{6, 0, 0, 0, 5, 1}));
  EXPECT_EQ(summary.min_samples, 6u);
  EXPECT_EQ(summary.max_samples, 6u);
  EXPECT_NEAR(summary.label_skew, 0.5, 1e-12);
  EXPECT_EQ(to_json(summary)["class_counts"].dump(), "[[6,0,0],[0,5,1]]");
  EXPECT_EQ(to_json(summary)["samples"].dump(), R"({"min":6,"mean":6.0,"max":6})");
  const std::string text = to_text(summary, 10);
  EXPECT_THAT(text, HasSubstr("█··\n"));
  EXPECT_THAT(text, HasSubstr("      1        6        2  ·█▂\n"));
  EXPECT_THAT(to_text(summary, 1), HasSubstr("… and 1 more"));
}

TEST(PartitionSummary, CountsOnlyTheFirstClients) {
  const Dataset dataset = two_owners();
  PartitionOptions options;
  options.clients = 1'000'000;
  options.samples_per_client = 12;
  const auto partition = make_partition(options, dataset, Key(1));
  const PartitionSummary summary = summarize(*partition, dataset, 3);
  EXPECT_EQ(summary.num_clients, 1'000'000u);
  EXPECT_EQ(summary.samples, (std::vector<uint64_t>{12, 12, 12}));
  EXPECT_EQ(summary.label_skew, 0.0);
  EXPECT_THAT(to_text(summary, 2), HasSubstr("… and 999998 more"));
}

}  // namespace
}  // namespace espalier::data
