#include "espalier/data/partition.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "espalier/data/test_files.h"

namespace espalier::data {
namespace {

using ::testing::HasSubstr;

// 2,000 samples of 10 uneven classes and 40 owners.
Dataset labeled(size_t samples = 2000, int32_t classes = 10) {
  Dataset dataset;
  dataset.name = "test";
  dataset.kind = Kind::kFloat;
  dataset.sample_shape = {1};
  dataset.num_classes = classes;
  Stream stream(Key(3));
  for (size_t i = 0; i < samples; ++i) {
    const auto first = static_cast<int32_t>(stream.below(static_cast<uint64_t>(classes)));
    const auto second = static_cast<int32_t>(stream.below(static_cast<uint64_t>(classes)));
    dataset.labels.push_back(stream.uniform() < 0.3 ? std::min(first, second) : first);
    dataset.client_of_sample.push_back(static_cast<uint32_t>(stream.below(40)));
  }
  for (int i = 0; i < 40; ++i) dataset.client_names.push_back(concat("owner", i));
  dataset.floats.resize(samples);
  dataset.validate();
  return dataset;
}

std::vector<std::vector<uint32_t>> members(const Partition& partition) {
  std::vector<std::vector<uint32_t>> lists(partition.num_clients());
  for (size_t k = 0; k < lists.size(); ++k) partition.samples(k, lists[k]);
  return lists;
}

std::vector<std::vector<uint32_t>> members(const PartitionOptions& options, const Dataset& dataset,
                                           uint64_t key) {
  return members(*make_partition(options, dataset, Key(key)));
}

class PartitionConformance : public ::testing::TestWithParam<std::string> {};

// Every row of the table, over several numbers of clients.
TEST_P(PartitionConformance, UsesEverySampleOnceAndDependsOnTheKeyAlone) {
  const Dataset dataset = labeled();
  for (const int64_t clients : {5, 23, 40}) {
    PartitionOptions options;
    options.name = GetParam();
    options.clients = clients;
    const auto partition = make_partition(options, dataset, Key(1));
    ASSERT_EQ(partition->num_clients(), static_cast<uint64_t>(clients));
    const auto lists = members(*partition);
    std::vector<int> uses(dataset.size(), 0);
    uint64_t largest = 0;
    for (size_t k = 0; k < lists.size(); ++k) {
      EXPECT_FALSE(lists[k].empty());
      EXPECT_EQ(lists[k].size(), partition->num_samples(k));
      EXPECT_TRUE(std::is_sorted(lists[k].begin(), lists[k].end()));
      largest = std::max<uint64_t>(largest, lists[k].size());
      for (const uint32_t sample : lists[k]) ++uses.at(sample);
    }
    EXPECT_EQ(partition->max_samples(), largest);
    // Natural partitions with fewer clients than owners leave samples out; all others use each
    // exactly once.
    const int least = options.name == "natural" && clients < 40 ? 0 : 1;
    EXPECT_EQ(*std::min_element(uses.begin(), uses.end()), least);
    EXPECT_EQ(*std::max_element(uses.begin(), uses.end()), 1);
    EXPECT_EQ(lists, members(options, dataset, 1));
    if (options.name != "natural") {
      EXPECT_NE(lists, members(options, dataset, 2));
    }
  }
}

TEST_P(PartitionConformance, ZeroClientsAreAnErrorExceptForNatural) {
  PartitionOptions options;
  options.name = GetParam();
  options.clients = 0;
  const Dataset dataset = labeled();
  if (options.name == "natural") {
    EXPECT_EQ(make_partition(options, dataset, Key(1))->num_clients(), 40u);
  } else {
    EXPECT_THAT(error_of([&] { make_partition(options, dataset, Key(1)); }),
                HasSubstr("set data.partition.clients"));
  }
}

INSTANTIATE_TEST_SUITE_P(All, PartitionConformance, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const PartitionRow& row : partition_rows())
                             names.push_back(row.name);
                           return names;
                         }()),
                         [](const auto& row) { return row.param; });

TEST(Partition, UnknownName) {
  PartitionOptions options;
  options.name = "dirichlt";
  EXPECT_THAT(error_of([&] { make_partition(options, labeled(), Key(1)); }),
              HasSubstr("did you mean 'dirichlet'"));
}

TEST(IidPartition, IsEven) {
  PartitionOptions options;
  options.clients = 7;
  for (const auto& list : members(options, labeled(), 1)) {
    EXPECT_GE(list.size(), 285u);
    EXPECT_LE(list.size(), 286u);
  }
  options.clients = 2001;
  EXPECT_THAT(error_of([&] { make_partition(options, labeled(), Key(1)); }),
              HasSubstr("at most 2000 clients"));
}

TEST(IidPartition, AMillionLazyClientsCostNothing) {
  PartitionOptions options;
  options.clients = 1'000'000;
  options.samples_per_client = 30;
  const Dataset dataset = labeled();
  const auto partition = make_partition(options, dataset, Key(1));
  EXPECT_EQ(partition->num_clients(), 1'000'000u);
  EXPECT_EQ(partition->max_samples(), 30u);
  std::vector<uint32_t> first, last, again;
  partition->samples(0, first);
  partition->samples(999'999, last);
  partition->samples(0, again);
  EXPECT_EQ(first.size(), 30u);
  EXPECT_EQ(std::set<uint32_t>(first.begin(), first.end()).size(), 30u);
  EXPECT_NE(first, last);
  EXPECT_EQ(first, again);
  options.samples_per_client = 2001;
  EXPECT_THAT(error_of([&] { make_partition(options, dataset, Key(1)); }),
              HasSubstr("samples_per_client"));
}

// Mean, over the clients, of the largest class's share of the client's samples.
double concentration(const std::vector<std::vector<uint32_t>>& lists, const Dataset& dataset) {
  double sum = 0;
  for (const auto& list : lists) {
    std::vector<size_t> counts(static_cast<size_t>(dataset.num_classes));
    for (const uint32_t sample : list) ++counts[static_cast<size_t>(dataset.labels[sample])];
    sum += static_cast<double>(*std::max_element(counts.begin(), counts.end())) /
           static_cast<double>(list.size());
  }
  return sum / static_cast<double>(lists.size());
}

TEST(DirichletPartition, SmallerAlphaIsMoreUneven) {
  const Dataset dataset = labeled();
  PartitionOptions options;
  options.name = "dirichlet";
  options.clients = 10;
  options.alpha = 0.1;
  const double uneven = concentration(members(options, dataset, 1), dataset);
  options.alpha = 1;
  const double middle = concentration(members(options, dataset, 1), dataset);
  options.alpha = 1000;
  const double even = concentration(members(options, dataset, 1), dataset);
  EXPECT_GT(uneven, middle + 0.1);
  EXPECT_GT(middle, even + 0.1);
  EXPECT_LT(even, 0.2);
}

TEST(DirichletPartition, KeepsTheMinimumOrSaysWhatToChange) {
  const Dataset dataset = labeled();
  PartitionOptions options;
  options.name = "dirichlet";
  options.clients = 20;
  options.alpha = 0.3;
  options.min_samples = 25;
  for (const auto& list : members(options, dataset, 4)) EXPECT_GE(list.size(), 25u);
  options.min_samples = 101;
  EXPECT_THAT(error_of([&] { make_partition(options, dataset, Key(1)); }),
              HasSubstr("20 × 101; lower"));
  options.min_samples = 99;
  options.alpha = 0.01;
  EXPECT_THAT(error_of([&] { make_partition(options, dataset, Key(1)); }),
              HasSubstr("raise data.partition.alpha"));
}

TEST(DirichletPartition, TinyAlphaStillEnds) {
  PartitionOptions options;
  options.name = "dirichlet";
  options.clients = 3;
  options.alpha = 1e-6;
  options.min_samples = 1;
  size_t total = 0;
  for (const auto& list : members(options, labeled(), 1)) total += list.size();
  EXPECT_EQ(total, 2000u);
}

TEST(ShardsPartition, ExactlyKDistinctClasses) {
  const Dataset dataset = labeled(5000);
  for (const auto& [clients, per_client] : std::vector<std::pair<int64_t, int64_t>>{
           {100, 2}, {10, 1}, {7, 3}, {13, 9}, {5, 10}, {33, 4}, {11, 1}}) {
    for (const uint64_t key : {1, 2, 3}) {
      PartitionOptions options;
      options.name = "shards";
      options.clients = clients;
      options.classes_per_client = per_client;
      size_t total = 0;
      for (const auto& list : members(options, dataset, key)) {
        std::set<int32_t> classes;
        for (const uint32_t sample : list) classes.insert(dataset.labels[sample]);
        EXPECT_EQ(classes.size(), static_cast<size_t>(per_client));
        total += list.size();
      }
      EXPECT_EQ(total, dataset.size());
    }
  }
}

TEST(ShardsPartition, ImpossibleSettingsSayWhatToChange) {
  const auto message = [](int64_t clients, int64_t per_client) {
    PartitionOptions options;
    options.name = "shards";
    options.clients = clients;
    options.classes_per_client = per_client;
    return error_of([&] { make_partition(options, labeled(), Key(1)); });
  };
  EXPECT_THAT(message(100, 11), HasSubstr("classes_per_client of at most 10"));
  EXPECT_THAT(message(4, 2), HasSubstr("of at least 10"));
  EXPECT_THAT(message(1900, 5), HasSubstr("cannot be cut into 950 shards"));
  EXPECT_THAT(message(1'000'000'000, 2), HasSubstr("at most 2000 clients"));
}

TEST(NaturalPartition, FollowsTheOwners) {
  Dataset dataset = labeled();
  PartitionOptions options;
  options.name = "natural";
  options.clients = 3;
  const auto lists = members(options, dataset, 1);
  ASSERT_EQ(lists.size(), 3u);
  for (size_t k = 0; k < 3; ++k) {
    for (const uint32_t sample : lists[k]) EXPECT_EQ(dataset.client_of_sample[sample], k);
  }
  options.clients = 100;
  EXPECT_EQ(members(options, dataset, 1).size(), 40u);
  dataset.client_of_sample.clear();
  EXPECT_THAT(error_of([&] { make_partition(options, dataset, Key(1)); }),
              HasSubstr("no clients of its own"));
}

// 10 classes of 400 samples each.
Dataset balanced() {
  Dataset dataset = labeled(4000);
  for (size_t i = 0; i < dataset.size(); ++i) dataset.labels[i] = static_cast<int32_t>(i % 10);
  return dataset;
}

// Shares of the classes over many seeds: mean and variance of one client's share, and the largest
// client that occurred.
struct Shares {
  double mean = 0, variance = 0;
  size_t largest = 0;
};
Shares shares_of_classes(const PartitionOptions& options, uint64_t seeds) {
  const Dataset dataset = balanced();
  std::vector<double> shares;
  Shares found;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    for (const auto& list : members(options, dataset, seed)) {
      std::vector<double> counts(10, 0);
      for (const uint32_t sample : list)
        counts[static_cast<size_t>(dataset.labels[sample])] += 1.0 / 400;
      shares.insert(shares.end(), counts.begin(), counts.end());
      found.largest = std::max(found.largest, list.size());
    }
  }
  for (const double share : shares) found.mean += share / static_cast<double>(shares.size());
  for (const double share : shares)
    found.variance +=
        (share - found.mean) * (share - found.mean) / static_cast<double>(shares.size());
  return found;
}

// A share of Dirichlet(alpha) among K has mean 1/K and variance (1/K)(1 − 1/K)/(K·alpha + 1).
TEST(DirichletPartition, WithoutCapHasDirichletsMoments) {
  PartitionOptions options;
  options.name = "dirichlet";
  options.clients = 5;
  options.min_samples = 1;
  options.cap = false;
  for (const double alpha : {0.3, 1.0, 10.0}) {
    options.alpha = alpha;
    const Shares found = shares_of_classes(options, 300);
    EXPECT_NEAR(found.mean, 0.2, 1e-9);
    const double expected = 0.2 * 0.8 / (5 * alpha + 1);
    EXPECT_NEAR(found.variance, expected, 0.08 * expected) << alpha;
  }
  options.alpha = 0.3;
  const size_t plain = shares_of_classes(options, 300).largest;
  options.cap = true;
  const Shares capped = shares_of_classes(options, 300);
  // A client gets no class once it has N/K = 800 samples; one class more is 400.
  EXPECT_LE(capped.largest, 1200U);
  EXPECT_GT(plain, 1600U);
}

TEST(DirichletPartition, CapBelongsToItAlone) {
  for (const char* name : {"iid", "shards", "natural", "dirichlet"}) {
    PartitionOptions options;
    options.name = name;
    options.cap = false;
    EXPECT_EQ(idle_options(options).empty(), options.name == "dirichlet") << name;
  }
}

std::vector<std::string> notes_of(const PartitionOptions& options, const Dataset& dataset,
                                  uint64_t expected_clients) {
  std::vector<std::string> notes;
  const auto partition = make_partition(options, dataset, Key(1), &notes);
  EXPECT_EQ(partition->num_clients(), expected_clients);
  uint64_t smallest = UINT64_MAX;
  for (uint64_t k = 0; k < partition->num_clients(); ++k)
    smallest = std::min(smallest, partition->num_samples(k));
  EXPECT_GT(smallest, 0U);
  return notes;
}

TEST(Partition, DefaultsThatCannotWorkGiveWay) {
  Dataset small = labeled(60);
  small.client_of_sample.clear();
  small.client_names.clear();
  PartitionOptions options;
  EXPECT_THAT(notes_of(options, small, 10),
              testing::ElementsAre(HasSubstr("clients is lowered from its default 100 to 10")));
  options.name = "dirichlet";
  EXPECT_THAT(notes_of(options, small, 3).front(), HasSubstr("100 to 3"));
  options.clients = 12;
  EXPECT_THAT(notes_of(options, small, 12).front(),
              HasSubstr("min_samples is lowered from its default 10 to 2"));
  options.min_samples = 9;  // somebody's number stays
  EXPECT_THAT(error_of([&] { make_partition(options, small, Key(1)); }),
              HasSubstr("12 × 9; lower"));

  options = {};
  options.name = "shards";
  const uint64_t clients = make_partition(options, small, Key(1))->num_clients();
  EXPECT_LT(clients, 100U);
  EXPECT_THAT(notes_of(options, small, clients).front(), HasSubstr("lowered"));
  options.clients = 101;
  EXPECT_THAT(error_of([&] { make_partition(options, small, Key(1)); }),
              HasSubstr("at most 60 clients"));
  Dataset one = small;
  std::fill(one.labels.begin(), one.labels.end(), 3);
  options.clients = 6;
  EXPECT_THAT(notes_of(options, one, 6).front(), HasSubstr("classes_per_client"));

  // Enough samples, but hardly any draw leaves everybody ten.
  options = {};
  options.name = "dirichlet";
  options.alpha = 0.3;
  options.clients = 150;
  EXPECT_THAT(notes_of(options, labeled(2000), 150).front(), HasSubstr("always had fewer"));
}

TEST(Partition, OwnersThatAreNotClientsAreSaid) {
  const Dataset dataset = labeled();
  PartitionOptions options;
  EXPECT_THAT(notes_of(options, dataset, 100).front(), HasSubstr("40 owners"));
  options.name = "natural";
  EXPECT_THAT(notes_of(options, dataset, 40), testing::IsEmpty());
  options.clients = 50;
  EXPECT_THAT(notes_of(options, dataset, 40).front(), HasSubstr("only 40 owners"));
  options.clients = 7;
  EXPECT_THAT(notes_of(options, dataset, 7), testing::IsEmpty());
  Dataset many = dataset;
  for (int i = 40; i < 150; ++i) many.client_names.push_back(concat("owner", i));
  for (size_t i = 0; i < many.size(); ++i)
    many.client_of_sample[i] = static_cast<uint32_t>(i % 150);
  options.clients = 100;
  EXPECT_THAT(notes_of(options, many, 100).front(), HasSubstr("the first 100 of 150 owners"));
}

}  // namespace
}  // namespace espalier::data
