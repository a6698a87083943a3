#include "espalier/submodel/selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/base/named_rows.h"

namespace espalier::submodel {
namespace {

std::vector<uint32_t> federated_dropout(int64_t size, int64_t count, uint32_t, Key key) {
  const auto chosen =
      sample_without_replacement(key, static_cast<uint64_t>(size), static_cast<uint64_t>(count));
  std::vector<uint32_t> units;
  units.reserve(chosen.size());
  for (const uint64_t unit : chosen) units.push_back(static_cast<uint32_t>(unit));
  return units;
}

std::vector<uint32_t> ordered(int64_t, int64_t count, uint32_t, Key) {
  std::vector<uint32_t> units(static_cast<size_t>(count));
  std::iota(units.begin(), units.end(), uint32_t{0});
  return units;
}

std::vector<uint32_t> rolling(int64_t size, int64_t count, uint32_t round, Key) {
  ESPALIER_CHECK(round >= 1);
  const int64_t start = (int64_t{round} - 1) % size;
  std::vector<uint32_t> units;
  units.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) units.push_back(static_cast<uint32_t>((start + i) % size));
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

std::vector<int64_t> kept_units(double keep, const ParameterLayout& layout) {
  std::vector<int64_t> units;
  for (const int64_t size : layout.group_sizes()) units.push_back(kept_units(keep, size));
  return units;
}

std::shared_ptr<const Submodel> choose_submodel(const SelectionRow& method,
                                                const std::shared_ptr<const ParameterLayout>& full,
                                                double keep, uint32_t round, Key key) {
  const std::vector<int64_t> sizes = full->group_sizes(), counts = kept_units(keep, *full);
  std::vector<std::vector<uint32_t>> kept;
  for (size_t g = 0; g < sizes.size(); ++g)
    kept.push_back(method.choose(sizes[g], counts[g], round, key.child(g)));
  return std::make_shared<const Submodel>(full, std::move(kept));
}

}  // namespace espalier::submodel
