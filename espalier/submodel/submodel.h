#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/params/coordinate_map.h"
#include "espalier/params/parameter_set.h"

namespace espalier::submodel {

// A choice of kept units for every unit group of a model: a physically smaller dense model and the
// way to and from the full one. Immutable; shared by the tasks that use it.
class Submodel {
 public:
  // kept[g]: unit numbers of group g of `full`, increasing, at least one. Throws Error otherwise.
  Submodel(std::shared_ptr<const ParameterLayout> full, std::vector<std::vector<uint32_t>> kept);

  const std::shared_ptr<const ParameterLayout>& full_layout() const { return full_; }
  // The smaller model's layout: same names and roles, smaller shapes.
  const std::shared_ptr<const ParameterLayout>& layout() const { return layout_; }
  const std::vector<std::vector<uint32_t>>& kept() const { return kept_; }
  // Number of kept units of each group: what describes the smaller architecture.
  std::vector<int64_t> units() const { return layout_->group_sizes(); }
  // Whether every unit is kept.
  bool whole() const { return layout_->size() == full_->size(); }
  const CoordinateMap& map() const { return map_; }

  // A ParameterSet of layout() with the kept values of `full`.
  ParameterSet extract(const ParameterSet& full) const;
  // The same into `out`, whose memory is used again when its layout equals layout(); fresh memory
  // costs more than the copy.
  void extract(const ParameterSet& full, ParameterSet& out) const;
  // Writes `small` over the kept values of `full`; all others keep their bits.
  void merge(const ParameterSet& small, ParameterSet& full) const;

 private:
  std::shared_ptr<const ParameterLayout> full_, layout_;
  std::vector<std::vector<uint32_t>> kept_;
  CoordinateMap map_;
};

}  // namespace espalier::submodel
