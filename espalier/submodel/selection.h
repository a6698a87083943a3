#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/params/parameter_set.h"
#include "espalier/submodel/submodel.h"

// Which units a client keeps in a round. Every method keeps max(1, round(keep·n)) units of every
// group of n, so sub-models of one ratio have one shape.
namespace espalier::submodel {

// What a method chooses from: `count` of a group's `size` units.
struct UnitChoice {
  int64_t size = 0, count = 0;
  uint32_t round = 1;  // 1-based
  // Belongs to the round and the client (or to the round alone, when a round shares one sub-model)
  // and to nothing else.
  Key key{0};
  std::span<const double> scores{};  // at least 0, one per unit; empty where nobody asks for them
};

// One method, by name. To add one, write its function and its row in selection.cpp.
struct SelectionRow {
  std::string name, summary;
  // `count` units, increasing, of one group.
  std::vector<uint32_t> (*choose)(const UnitChoice& choice);
  // Whether the choice depends on the key, on the round, on the scores.
  bool random = false, moves = false, scored = false;
};
// federated-dropout: random (Caldas et al. 2018); ordered: the first units (HeteroFL, Diao et al.
// 2021; FjORD, Horváth et al. 2021); rolling: a window that starts one unit later every round and
// wraps around (FedRolex, Alam et al. 2022); importance: random, a unit being the likelier the
// larger its score (ours; successive draws without replacement with probabilities in proportion to
// the scores, by the keys of Efraimidis and Spirakis 2006).
const std::vector<SelectionRow>& selection_rows();
// An Error that names the nearest known one.
const SelectionRow& find_selection(const std::string& name);

// max(1, round(keep·size)), 0 < keep ≤ 1; keep = 1 keeps all.
int64_t kept_units(double keep, int64_t size);
// kept_units of every group, the groups named in `whole` with all of theirs.
std::vector<int64_t> kept_units(double keep, const ParameterLayout& layout,
                                const std::vector<std::string>& whole = {});

// By group and unit: the norm √Σw² of the weights that compute it, those of all layers together
// where several share a group. 0 for a group that no tensor of role weight computes.
using UnitScores = std::vector<std::vector<double>>;
UnitScores incoming_norms(const ParameterSet& model);

// The sub-model of one client (or of one round): counts[g] units of group g. Every group draws from
// its own child of `key`. `scores` may be empty for methods that do not ask for them.
std::shared_ptr<const Submodel> choose_submodel(const SelectionRow& method,
                                                const std::shared_ptr<const ParameterLayout>& full,
                                                const std::vector<int64_t>& counts, uint32_t round,
                                                Key key, const UnitScores& scores = {});
// The same with kept_units(keep) of every group and equal scores.
std::shared_ptr<const Submodel> choose_submodel(const SelectionRow& method,
                                                const std::shared_ptr<const ParameterLayout>& full,
                                                double keep, uint32_t round, Key key);

}  // namespace espalier::submodel
