#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/submodel/submodel.h"

// Which units a client keeps in a round. Every method keeps max(1, round(keep·n)) units of every
// group of n, so sub-models of one ratio have one shape.
namespace espalier::submodel {

// One method, by name. To add one, write its function and its row in selection.cpp.
struct SelectionRow {
  std::string name, summary;
  // The kept units, increasing, of a group of `size` units. `round` is 1-based; `key` belongs to
  // the round and the client (or to the round alone, when a round shares one sub-model) and to
  // nothing else.
  std::vector<uint32_t> (*choose)(int64_t size, int64_t count, uint32_t round, Key key);
  // Whether the choice depends on the key (federated-dropout), on the round (rolling).
  bool random = false, moves = false;
};
// federated-dropout: random (Caldas et al. 2018); ordered: the first units (HeteroFL, Diao et al.
// 2021; FjORD, Horváth et al. 2021); rolling: a window that starts one unit later every round and
// wraps around (FedRolex, Alam et al. 2022).
const std::vector<SelectionRow>& selection_rows();
// An Error that names the nearest known one.
const SelectionRow& find_selection(const std::string& name);

// max(1, round(keep·size)), 0 < keep ≤ 1; keep = 1 keeps all.
int64_t kept_units(double keep, int64_t size);
// kept_units of every group.
std::vector<int64_t> kept_units(double keep, const ParameterLayout& layout);

// The sub-model of one client (or of one round) of ratio `keep`. Every group draws from its own
// child of `key`.
std::shared_ptr<const Submodel> choose_submodel(const SelectionRow& method,
                                                const std::shared_ptr<const ParameterLayout>& full,
                                                double keep, uint32_t round, Key key);

}  // namespace espalier::submodel
