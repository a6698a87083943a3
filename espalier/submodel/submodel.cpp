#include "espalier/submodel/submodel.h"

#include "espalier/base/error.h"

namespace espalier::submodel {
namespace {

std::shared_ptr<const ParameterLayout> kept_layout(const ParameterLayout& full,
                                                   const std::vector<std::vector<uint32_t>>& kept) {
  std::vector<int64_t> units;
  for (const auto& group : kept) units.push_back(static_cast<int64_t>(group.size()));
  return narrow_layout(full, units);
}

}  // namespace

Submodel::Submodel(std::shared_ptr<const ParameterLayout> full,
                   std::vector<std::vector<uint32_t>> kept)
    : full_(std::move(full)),
      layout_(kept_layout(*full_, kept)),
      kept_(std::move(kept)),
      map_(*full_, *layout_, kept_) {}

ParameterSet Submodel::extract(const ParameterSet& full) const {
  ParameterSet out(layout_);
  extract(full, out);
  return out;
}

void Submodel::extract(const ParameterSet& full, ParameterSet& out) const {
  ESPALIER_CHECK(full.layout() == *full_);
  // Sub-models of one ratio have equal layouts, each its own.
  if (out.empty() || out.layout() != *layout_) out = ParameterSet(layout_);
  map_.gather(full.values(), out.values());
}

void Submodel::merge(const ParameterSet& small, ParameterSet& full) const {
  ESPALIER_CHECK(small.layout() == *layout_ && full.layout() == *full_);
  map_.scatter(small.values(), full.values());
}

}  // namespace espalier::submodel
