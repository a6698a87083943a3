#include "espalier/script/script_labels.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "espalier/base/error.h"

namespace espalier::script {

ScriptLabels::ScriptLabels() : parents_{kWhole}, classes_(1) { classes_[0].natural = true; }

ScriptLabels::Axis ScriptLabels::add_axis(int64_t count) {
  if (count == 1) return {kWhole};
  Axis axis;
  for (int64_t i = 0; i < count; ++i) {
    axis.push_back(static_cast<Label>(parents_.size()));
    parents_.push_back(axis.back());
    classes_.emplace_back();
  }
  return axis;
}

size_t ScriptLabels::find(Label label) const {
  auto i = static_cast<size_t>(label);
  while (static_cast<size_t>(parents_[i]) != i) {
    parents_[i] = parents_[static_cast<size_t>(parents_[i])];
    i = static_cast<size_t>(parents_[i]);
  }
  return i;
}

void ScriptLabels::join(Label a, Label b) {
  const size_t from = std::max(find(a), find(b)), to = std::min(find(a), find(b));
  if (from == to) return;
  parents_[from] = static_cast<Label>(to);
  Class& kept = classes_[to];
  const Class& gone = classes_[from];
  kept.natural |= gone.natural;
  kept.computed |= gone.computed;
  kept.read |= gone.read;
  if (kept.reason < 0) kept.reason = gone.reason;
}

void ScriptLabels::join(const Axis& a, const Axis& b) {
  ESPALIER_CHECK(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) join(a[i], b[i]);
}

void ScriptLabels::join_whole(const Axis& axis) {
  for (const Label label : axis) join(label, kWhole);
}

void ScriptLabels::refuse(const Axis& axis, const std::string& reason) {
  auto found = std::ranges::find(reasons_, reason);
  if (found == reasons_.end()) found = reasons_.insert(reasons_.end(), reason);
  for (const Label label : axis) {
    Class& c = classes_[find(label)];
    if (c.reason < 0) c.reason = static_cast<int>(found - reasons_.begin());
  }
}

void ScriptLabels::mark_computed(const Axis& axis) {
  for (const Label label : axis) classes_[find(label)].computed = true;
}

void ScriptLabels::mark_read(const Axis& axis) {
  for (const Label label : axis) classes_[find(label)].read = true;
}

bool ScriptLabels::tracked(const Axis& axis) const {
  return std::ranges::any_of(axis, [&](Label label) { return !classes_[find(label)].natural; });
}

bool ScriptLabels::is_unit(size_t root) const {
  const Class& c = classes_[root];
  return !c.natural && c.reason < 0 && c.computed && c.read;
}

namespace {

// Calls visit(tensor, axis, index, label) in the order of the buffer.
template <class Visit>
void for_each_index(const std::vector<std::vector<ScriptLabels::Axis>>& labels, Visit visit) {
  for (size_t t = 0; t < labels.size(); ++t) {
    for (size_t a = 0; a < labels[t].size(); ++a) {
      for (size_t i = 0; i < labels[t][a].size(); ++i) visit(t, a, i, labels[t][a][i]);
    }
  }
}

// The units of one axis, unit_at[i] = {group, unit} or {-1, 0}, as AxisUnits; false when they stand
// in an order that AxisUnits cannot describe, and then `group` is the group to blame.
bool describe(const std::vector<std::pair<int, int64_t>>& unit_at, int axis,
              const std::vector<int64_t>& sizes, std::vector<AxisUnits>& out, int& group) {
  const size_t size = unit_at.size();
  for (size_t i = 0; i < size;) {
    group = unit_at[i].first;
    if (group < 0) {
      ++i;
      continue;
    }
    const size_t begin = i;
    while (i < size && unit_at[i] == unit_at[begin]) ++i;
    const size_t repeat = i - begin;
    const auto units = static_cast<size_t>(sizes[static_cast<size_t>(group)]);
    if (units * repeat > size - begin) return false;
    for (size_t k = 0; k < units * repeat; ++k) {
      if (unit_at[begin + k] != std::pair(group, static_cast<int64_t>(k / repeat))) return false;
    }
    i = begin + units * repeat;
    const AxisUnits part{.axis = axis,
                         .group = group,
                         .blocks = 1,
                         .repeat = static_cast<int64_t>(repeat),
                         .offset = static_cast<int64_t>(begin)};
    AxisUnits* last = out.empty() || out.back().axis != axis ? nullptr : &out.back();
    if (last != nullptr && last->group == group && last->repeat == part.repeat &&
        last->offset + last->blocks * static_cast<int64_t>(units * repeat) == part.offset) {
      ++last->blocks;
    } else {
      out.push_back(part);
    }
  }
  return true;
}

}  // namespace

std::vector<UnitGroup> ScriptLabels::groups(const std::vector<std::vector<Axis>>& labels,
                                            std::vector<ParameterInfo>& tensors) {
  for (;;) {
    std::unordered_map<size_t, std::vector<std::pair<size_t, size_t>>> places;
    std::vector<size_t> order;  // units by first appearance
    for_each_index(labels, [&](size_t t, size_t a, size_t, Label label) {
      const size_t root = find(label);
      if (!is_unit(root)) return;
      auto& list = places[root];
      if (list.empty()) order.push_back(root);
      if (list.empty() || list.back() != std::pair(t, a)) list.emplace_back(t, a);
    });
    std::map<std::vector<std::pair<size_t, size_t>>, int> group_of;
    std::unordered_map<size_t, std::pair<int, int64_t>> unit_of;
    std::vector<int64_t> sizes;
    std::vector<UnitGroup> groups;
    for (const size_t root : order) {
      const auto& list = places[root];
      const auto [entry, fresh] = group_of.try_emplace(list, static_cast<int>(groups.size()));
      if (fresh) {
        // Of the first layer that computes the units.
        const auto computed = std::ranges::find_if(list, [&](const auto& place) {
          return place.second == 0 && tensors[place.first].shape.size() > 1;
        });
        const auto first = computed == list.end() ? list.begin() : computed;
        groups.push_back({layer_name(tensors[first->first].name), 0});
      }
      UnitGroup& group = groups[static_cast<size_t>(entry->second)];
      unit_of[root] = {entry->second, group.size++};
    }
    for (const UnitGroup& group : groups) sizes.push_back(group.size);

    bool regular = true;
    for (size_t t = 0; t < labels.size(); ++t) {
      tensors[t].units.clear();
      for (size_t a = 0; a < labels[t].size(); ++a) {
        std::vector<std::pair<int, int64_t>> unit_at;
        for (const Label label : labels[t][a]) {
          const auto unit = unit_of.find(find(label));
          unit_at.push_back(unit == unit_of.end() ? std::pair(-1, int64_t{0}) : unit->second);
        }
        int group = -1;
        if (describe(unit_at, static_cast<int>(a), sizes, tensors[t].units, group)) continue;
        regular = false;
        for (const auto& [root, unit] : unit_of) {
          if (unit.first == group)
            refuse({static_cast<Label>(root)}, "their order on an axis is irregular");
        }
      }
    }
    if (regular) return groups;
  }
}

std::vector<std::pair<std::string, std::vector<std::string>>> ScriptLabels::refusals(
    const std::vector<std::vector<Axis>>& labels, const std::vector<ParameterInfo>& tensors) const {
  std::vector<std::pair<std::string, std::vector<std::string>>> found;
  for (const std::string& reason : reasons_) found.emplace_back(reason, std::vector<std::string>());
  for_each_index(labels, [&](size_t t, size_t a, size_t, Label label) {
    const Class& c = classes_[find(label)];
    if (c.natural || c.reason < 0 || a != 0 || tensors[t].shape.size() < 2) return;
    auto& names = found[static_cast<size_t>(c.reason)].second;
    const std::string name = layer_name(tensors[t].name);
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  });
  std::erase_if(found, [](const auto& entry) { return entry.second.empty(); });
  return found;
}

std::string layer_name(const std::string& tensor) {
  const size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? tensor : tensor.substr(0, dot);
}

}  // namespace espalier::script
