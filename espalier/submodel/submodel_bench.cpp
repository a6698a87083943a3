// Extraction and merge beside memcpy of as many bytes (the small model's), one thread. The full
// model has about 10 M parameters. Memory is read and written as in a round: every pass works on
// the next of several models, so that none of them is still in the cache.
//   submodel_bench [repetitions]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

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

struct Times {
  double best = 1e30, median = 0;
};

class Stopwatch {
 public:
  void run(const std::function<void()>& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    seconds_.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  Times times() {
    std::sort(seconds_.begin(), seconds_.end());
    return {seconds_.front(), seconds_[seconds_.size() / 2]};
  }

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
  Stopwatch copy, extract, merge, fresh_copy, fresh;
  for (int i = 0; i < repetitions; ++i) {
    const auto at = static_cast<size_t>(i) % kModels;
    extract.run([&] { sub->extract(full[at], small[at]); });
    copy.run([&] {
      std::memcpy(copies[at].values().data(), full[(at + 1) % kModels].values().data(), bytes);
    });
    merge.run([&] { sub->merge(small[(at + 2) % kModels], full[(at + 2) % kModels]); });
    fresh_copy.run([&] { ParameterSet set(small[at]); });
    fresh.run([&] { ParameterSet set = sub->extract(full[at]); });
  }
  std::printf("%s, %.1f M parameters, keep %.2f: %.1f MB\n", name,
              static_cast<double>(layout->size()) / 1e6, keep, static_cast<double>(bytes) / 1e6);
  const auto line = [&](const char* what, Stopwatch& watch, Stopwatch& reference) {
    const Times t = watch.times(), r = reference.times();
    const double gigabytes = static_cast<double>(bytes) / 1e9;
    std::printf("  %-22s best %6.2f GB/s  median %6.2f GB/s  of memcpy %.2f  %.2f\n", what,
                gigabytes / t.best, gigabytes / t.median, r.best / t.best, r.median / t.median);
  };
  line("memcpy", copy, copy);
  line("extract", extract, copy);
  line("merge", merge, copy);
  line("memcpy, fresh memory", fresh_copy, fresh_copy);
  line("extract, fresh memory", fresh, fresh_copy);
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
