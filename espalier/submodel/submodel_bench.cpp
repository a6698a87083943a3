// Extraction and merge beside memcpy of as many bytes (the small model's), one thread. The full
// model has about 10 M parameters. Memory is read and written as in a round: every pass works on
// the next of several models, so that none of them is still in the cache. What memory allows is
// shown by memcpy of the kept rows in full: at random columns their cache lines are all touched.
// Then, a value of the small model at a time, exact sums of mapped contributions and their mean.
//   submodel_bench [repetitions]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "bench/harness.h"
#include "espalier/base/clock.h"
#include "espalier/params/exact_sum.h"
#include "espalier/submodel/selection.h"

namespace espalier::submodel {
namespace {

using Tensors = std::vector<ParameterInfo>;

// 784-2048-2048-2048-10.
std::shared_ptr<const ParameterLayout> dense_layout() {
  const std::vector<int64_t> widths = {784, 2048, 2048, 2048, 10};
  std::vector<UnitGroup> groups;
  Tensors tensors;
  for (int layer = 1; layer < 5; ++layer) {
    const auto l = static_cast<size_t>(layer);
    std::vector<AxisUnits> weight, bias;
    if (layer < 4) {
      groups.push_back({concat("fc", layer), widths[l]});
      bias = {{.axis = 0, .group = layer - 1}};
      weight = bias;
    }
    if (layer > 1) weight.push_back({.axis = 1, .group = layer - 2});
    tensors.push_back({.name = concat("fc", layer, ".weight"),
                       .shape = {widths[l], widths[l - 1]},
                       .units = weight});
    tensors.push_back({.name = concat("fc", layer, ".bias"),
                       .shape = {widths[l]},
                       .role = Role::kBias,
                       .units = bias});
  }
  return std::make_shared<const ParameterLayout>(std::move(tensors), std::move(groups));
}

// Convolutions of `kernel`², then, flattened from 7×7 pixels, two dense layers.
std::shared_ptr<const ParameterLayout> conv_layout(int64_t kernel, std::vector<int64_t> channels,
                                                   int64_t hidden) {
  std::vector<UnitGroup> groups;
  Tensors tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape,
                       std::vector<AxisUnits> units) {
    tensors.push_back({.name = name, .shape = std::move(shape), .units = std::move(units)});
  };
  int64_t in = 3;
  for (size_t i = 0; i < channels.size(); ++i) {
    const int group = static_cast<int>(i);
    std::vector<AxisUnits> units = {{.axis = 0, .group = group}};
    if (i > 0) units.push_back({.axis = 1, .group = group - 1});
    add(concat("conv", i + 1), {channels[i], in, kernel, kernel}, units);
    groups.push_back({concat("conv", i + 1), channels[i]});
    in = channels[i];
  }
  const int last = static_cast<int>(channels.size());
  groups.push_back({"fc1", hidden});
  add("fc1", {hidden, in * 49},
      {{.axis = 0, .group = last}, {.axis = 1, .group = last - 1, .repeat = 49}});
  add("fc2", {10, hidden}, {{.axis = 1, .group = last}});
  return std::make_shared<const ParameterLayout>(std::move(tensors), std::move(groups));
}

class Repeated {
 public:
  void run(const std::function<void()>& work) {
    const Stopwatch watch;
    work();
    seconds_.push_back(watch.seconds());
  }
  double best() const { return *std::ranges::min_element(seconds_); }
  double median() const { return bench::median(seconds_); }

 private:
  std::vector<double> seconds_;
};

void measure(const char* name, const std::shared_ptr<const ParameterLayout>& layout, double keep,
             int repetitions) {
  constexpr size_t kModels = 4;
  const auto sub = choose_submodel(find_selection("federated-dropout"), layout, keep, 1, Key(7));
  std::vector<ParameterSet> full(kModels, ParameterSet(layout));
  std::vector<ParameterSet> small(kModels, ParameterSet(sub->layout()));
  std::vector<ParameterSet> copies(kModels, ParameterSet(sub->layout()));
  Stream stream{Key(1)};
  for (ParameterSet& set : full) {
    for (float& value : set.values()) value = stream.uniform_float();
  }
  const size_t bytes = small[0].size() * sizeof(float);
  // The kinds of work take turns, so that a busy machine slows all of them alike.
  size_t touched = 0;
  for (const auto& block : sub->map().blocks()) touched += block.rows.size() * block.full_columns;
  constexpr size_t kClients = 10;
  ExactAccumulator sum(full[0].size(), kClients, 1), whole(full[0].size(), kClients, 1);
  std::vector<std::shared_ptr<const Submodel>> clients;
  std::vector<ExactAccumulator::Covering> covering;
  for (size_t k = 0; k < kClients; ++k) {
    clients.push_back(
        choose_submodel(find_selection("federated-dropout"), layout, keep, 1, Key(7).child(k)));
    covering.push_back({&clients.back()->map(), 1.0});
  }
  ParameterSet mean(layout);

  Repeated copy, rows, extract, merge, fresh_copy, fresh, add, add_whole, divide, divide_covered;
  for (int i = 0; i < repetitions; ++i) {
    const auto at = static_cast<size_t>(i) % kModels, k = static_cast<size_t>(i) % kClients;
    const ParameterSet& other = full[(at + 1) % kModels];
    extract.run([&] { sub->extract(full[at], small[at]); });
    copy.run([&] { std::memcpy(copies[at].values().data(), other.values().data(), bytes); });
    merge.run([&] { sub->merge(small[(at + 2) % kModels], full[(at + 2) % kModels]); });
    rows.run([&] {
      std::memcpy(mean.values().data(), full[at].values().data(), touched * sizeof(float));
    });
    fresh_copy.run([&] { const ParameterSet set(small[at]); });
    fresh.run([&] { const ParameterSet set = sub->extract(full[at]); });
    if (k == 0) {
      sum.reset();
      whole.reset();
    }
    const CoordinateMap& map = clients[k]->map();
    add.run([&] { sum.add_checked(small[at].values(), 1, 1.0f, &map); });
    add_whole.run([&] { whole.add_checked(other.values(), 1, 1.0f); });
    if (k + 1 < kClients) continue;
    divide.run([&] { sum.mean(sum.total_weight(), mean.values()); });
    divide_covered.run([&] { sum.mean_covered(covering, mean.values()); });
  }
  std::printf("%s, %.1f M parameters, keep %.2f: %.1f MB\n", name,
              static_cast<double>(layout->size()) / 1e6, keep, static_cast<double>(bytes) / 1e6);
  const auto line = [&](const char* what, const Repeated& t, const Repeated& r) {
    const double gigabytes = static_cast<double>(bytes) / 1e9;
    std::printf("  %-22s best %6.2f GB/s  median %6.2f GB/s  of memcpy %.2f  %.2f\n", what,
                gigabytes / t.best(), gigabytes / t.median(), r.best() / t.best(),
                r.median() / t.median());
  };
  line("memcpy", copy, copy);
  line("memcpy of kept rows", rows, copy);
  line("extract", extract, copy);
  line("merge", merge, copy);
  line("memcpy, fresh memory", fresh_copy, fresh_copy);
  line("extract, fresh memory", fresh, fresh_copy);
  const auto per_value = [&](const char* what, const Repeated& t, size_t values) {
    const double scale = 1e9 / static_cast<double>(values);
    std::printf("  %-22s best %6.3f ns    median %6.3f ns    per value\n", what, t.best() * scale,
                t.median() * scale);
  };
  per_value("add, mapped", add, small[0].size());
  per_value("add, whole", add_whole, full[0].size());
  per_value("mean", divide, full[0].size());
  per_value("mean_covered by 10", divide_covered, full[0].size());
}

}  // namespace
}  // namespace espalier::submodel

int main(int argc, char** argv) {
  using namespace espalier::submodel;
  const int repetitions = argc > 1 ? std::max(1, std::atoi(argv[1])) : 60;
  for (const double keep : {0.75, 0.5}) {
    measure("dense", dense_layout(), keep, repetitions);
    measure("conv 3x3", conv_layout(3, {64, 128, 256, 512, 512}, 256), keep, repetitions);
    measure("conv 5x5", conv_layout(5, {64, 128, 256}, 720), keep, repetitions);
  }
}
