#include "espalier/submodel/selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/base/named_rows.h"
#include "espalier/params/unit_rows.h"

namespace espalier::submodel {
namespace {

std::vector<uint32_t> federated_dropout(const UnitChoice& from) {
  const auto chosen = sample_without_replacement(from.key, static_cast<uint64_t>(from.size),
                                                 static_cast<uint64_t>(from.count));
  std::vector<uint32_t> units;
  units.reserve(chosen.size());
  for (const uint64_t unit : chosen) units.push_back(static_cast<uint32_t>(unit));
  return units;
}

std::vector<uint32_t> ordered(const UnitChoice& from) {
  std::vector<uint32_t> units(static_cast<size_t>(from.count));
  std::iota(units.begin(), units.end(), uint32_t{0});
  return units;
}

std::vector<uint32_t> rolling(const UnitChoice& from) {
  ESPALIER_CHECK(from.round >= 1);
  const int64_t start = (int64_t{from.round} - 1) % from.size;
  std::vector<uint32_t> units;
  units.reserve(static_cast<size_t>(from.count));
  for (int64_t i = 0; i < from.count; ++i)
    units.push_back(static_cast<uint32_t>((start + i) % from.size));
  std::sort(units.begin(), units.end());
  return units;
}

// Unit u waits an exponential time of rate score(u); the first `count` are those that successive
// draws in proportion to the scores would give. Units of score 0 come last, in random order.
std::vector<uint32_t> importance(const UnitChoice& from) {
  ESPALIER_CHECK(from.scores.size() == static_cast<size_t>(from.size));
  struct Waiting {
    bool never;
    double time;
    uint32_t unit;
    auto operator<=>(const Waiting&) const = default;
  };
  Stream stream(from.key);
  std::vector<Waiting> queue;
  queue.reserve(from.scores.size());
  for (uint32_t u = 0; u < from.scores.size(); ++u) {
    const double wait = -std::log1p(-stream.uniform()), score = from.scores[u];
    const bool never = !(score > 0) || !std::isfinite(wait / score);
    queue.push_back({never, never ? wait : wait / score, u});
  }
  const auto end = queue.begin() + from.count;
  std::partial_sort(queue.begin(), end, queue.end());
  std::vector<uint32_t> units;
  for (auto one = queue.begin(); one != end; ++one) units.push_back(one->unit);
  std::sort(units.begin(), units.end());
  return units;
}

}  // namespace

const std::vector<SelectionRow>& selection_rows() {
  static const std::vector<SelectionRow> rows = {
      {"federated-dropout", "random units, drawn anew for every client and round (Caldas 2018)",
       federated_dropout, /*random=*/true, /*moves=*/false},
      {"ordered", "the first units: small sub-models lie inside larger ones (HeteroFL, FjORD)",
       ordered, /*random=*/false, /*moves=*/false},
      {"rolling", "a window that moves on by one unit every round (FedRolex)", rolling,
       /*random=*/false, /*moves=*/true},
      {"importance", "random units, the likelier the larger the norm of their incoming weights",
       importance, /*random=*/true, /*moves=*/false, /*scored=*/true},
  };
  return rows;
}

const SelectionRow& find_selection(const std::string& name) {
  return find_row(selection_rows(), name, "submodel", "selection");
}

int64_t kept_units(double keep, int64_t size) {
  if (!(keep > 0 && keep <= 1)) {
    fail("submodel", "expected a keep ratio above 0 and at most 1, got ", keep);
  }
  return std::max<int64_t>(1, std::llround(keep * static_cast<double>(size)));
}

std::vector<int64_t> kept_units(double keep, const ParameterLayout& layout,
                                const std::vector<std::string>& whole) {
  std::vector<int64_t> units;
  for (const UnitGroup& group : layout.groups()) {
    const bool all = std::find(whole.begin(), whole.end(), group.name) != whole.end();
    units.push_back(all ? group.size : kept_units(keep, group.size));
  }
  return units;
}

UnitScores incoming_norms(const ParameterSet& model) {
  UnitScores norms;
  for (const UnitGroup& group : model.layout().groups())
    norms.emplace_back(static_cast<size_t>(group.size), 0.0);
  const auto values = model.values();
  for_each_incoming_row(model.layout(), [&](size_t group, size_t unit, size_t begin, size_t end) {
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += double{values[i]} * double{values[i]};
    norms[group][unit] += sum;
  });
  for (auto& group : norms)
    for (double& norm : group) norm = std::sqrt(norm);
  return norms;
}

std::shared_ptr<const Submodel> choose_submodel(const SelectionRow& method,
                                                const std::shared_ptr<const ParameterLayout>& full,
                                                const std::vector<int64_t>& counts, uint32_t round,
                                                Key key, const UnitScores& scores) {
  const std::vector<int64_t> sizes = full->group_sizes();
  ESPALIER_CHECK(counts.size() == sizes.size() &&
                 (scores.empty() || scores.size() == sizes.size()));
  std::vector<std::vector<uint32_t>> kept;
  for (size_t g = 0; g < sizes.size(); ++g) {
    kept.push_back(
        method.choose({.size = sizes[g],
                       .count = counts[g],
                       .round = round,
                       .key = key.child(g),
                       .scores = scores.empty() ? std::span<const double>() : scores[g]}));
  }
  return std::make_shared<const Submodel>(full, std::move(kept));
}

std::shared_ptr<const Submodel> choose_submodel(const SelectionRow& method,
                                                const std::shared_ptr<const ParameterLayout>& full,
                                                double keep, uint32_t round, Key key) {
  UnitScores scores;
  for (const int64_t size : full->group_sizes())
    scores.emplace_back(static_cast<size_t>(size), 1.0);
  return choose_submodel(method, full, kept_units(keep, *full), round, key, scores);
}

}  // namespace espalier::submodel
