#include "espalier/nn/nested_net.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/params/hidden_outputs.h"

namespace espalier::nn {
namespace {

std::vector<Segment> hidden_segments(const ParameterLayout& layout) {
  std::vector<Segment> parts;
  for (const ParameterInfo& tensor : layout.tensors()) {
    if (!makes_hidden_outputs(tensor)) continue;
    const auto begin = static_cast<size_t>(tensor.offset);
    parts.push_back({begin, begin + static_cast<size_t>(tensor.size)});
  }
  return parts;
}

void scale_parts(std::span<float> values, const std::vector<Segment>& parts, double scale) {
  const auto factor = static_cast<float>(scale);
  for (const Segment& part : parts) {
    for (size_t i = part.begin; i < part.end; ++i) values[i] *= factor;
  }
}

}  // namespace

NestedNet::NestedNet(Net& whole, NarrowNet narrow) : whole_(whole), narrow_(std::move(narrow)) {
  const std::vector<int64_t> all = whole_.layout()->group_sizes();
  widths_.emplace(all, make_width(all));
}

NestedNet::Width NestedNet::make_width(const std::vector<int64_t>& units) const {
  const ParameterLayout& full = *whole_.layout();
  Width width;
  if (units == full.group_sizes()) {
    width.net = &whole_;
    for (const ParameterInfo& tensor : full.tensors()) {
      if (is_trainable(tensor.role)) continue;
      const auto begin = static_cast<size_t>(tensor.offset);
      for (size_t i = begin; i < begin + static_cast<size_t>(tensor.size); ++i)
        width.statistics.emplace_back(i, i);
    }
  } else {
    width.own = narrow_(units);
    width.net = width.own.get();
    std::vector<std::vector<uint32_t>> kept;
    for (const int64_t count : units) {
      kept.emplace_back(static_cast<size_t>(count));
      std::iota(kept.back().begin(), kept.back().end(), 0U);
    }
    const ParameterLayout& small = *width.net->layout();
    width.map = std::make_unique<CoordinateMap>(full, small, kept);
    for (const CoordinateMap::Block& block : width.map->blocks()) {
      const auto tensor =
          std::find_if(small.tensors().begin(), small.tensors().end(), [&](const auto& info) {
            return info.size > 0 && static_cast<size_t>(info.offset) == block.small_offset;
          });
      if (tensor == small.tensors().end() || is_trainable(tensor->role)) continue;
      size_t at = block.small_offset;
      for (const uint32_t row : block.rows) {
        for (const uint32_t column : block.columns) {
          width.statistics.emplace_back(at++,
                                        block.full_offset + row * block.full_columns + column);
        }
      }
    }
  }
  width.hidden = hidden_segments(*width.net->layout());
  return width;
}

void NestedNet::start(const SubmodelTraining& training, std::span<const uint8_t> classes, Key key) {
  const std::vector<UnitGroup>& groups = whole_.layout()->groups();
  const auto bad = [](const auto&... parts) { fail("train/submodel", parts...); };
  if (!(training.distillation >= 0 && training.distillation <= 1))
    bad("expected a distillation of 0 to 1, got ", training.distillation);
  if (!(training.temperature > 0 && std::isfinite(training.temperature)))
    bad("expected a temperature above 0, got ", training.temperature);
  if (!(training.scale > 0 && std::isfinite(training.scale)))
    bad("expected a scale above 0, got ", training.scale);
  for (const std::vector<int64_t>& units : training.widths) {
    if (units.size() != groups.size())
      bad("expected widths of ", groups.size(), " unit groups, got ", units.size());
    for (size_t g = 0; g < units.size(); ++g) {
      if (units[g] < 1 || units[g] > groups[g].size) {
        bad("expected a width of 1 to ", groups[g].size, " units of '", groups[g].name, "', got ",
            units[g]);
      }
    }
  }

  training_ = training;
  classes_.assign(classes.begin(), classes.end());
  key_ = key.child(Purpose::kSubmodel);
  step_ = 0;
  const std::vector<int64_t> all = whole_.layout()->group_sizes();
  std::erase_if(widths_, [&](const auto& entry) {
    return entry.first != all && std::find(training.widths.begin(), training.widths.end(),
                                           entry.first) == training.widths.end();
  });
  drawn_from_.clear();
  widest_ = nullptr;
  int64_t most = -1;
  for (const std::vector<int64_t>& units : training.widths) {
    auto found = widths_.find(units);
    if (found == widths_.end()) found = widths_.emplace(units, make_width(units)).first;
    drawn_from_.push_back(&found->second);
    const int64_t count = std::accumulate(units.begin(), units.end(), int64_t{0});
    if (count > most) widest_ = &found->second;
    most = std::max(most, count);
  }
  if (drawn_from_.empty()) drawn_from_.push_back(widest_ = &widths_.at(all));
}

void NestedNet::take_weights(const Width& width, std::span<const float> weights) {
  if (width.map == nullptr) {
    work_.assign(weights.begin(), weights.end());
  } else {
    work_.resize(width.map->small_size());
    width.map->gather(weights, work_);
  }
  if (training_.scale != 1) scale_parts(work_, width.hidden, training_.scale);
}

// On a copy of the weights, which the net sees as its own.
BatchSums NestedNet::train_copy(const Width& width, const Batch& batch, std::span<float> weights,
                                std::span<float> gradients) {
  take_weights(width, weights);
  std::span<float> found = gradients;
  if (width.map != nullptr) {
    // Nets leave the gradients of statistics alone: zeros must stand there.
    work_gradients_.assign(work_.size(), 0.0f);
    found = work_gradients_;
  }
  const BatchSums sums = width.net->train(batch, work_, found, nullptr);
  if (training_.scale != 1) scale_parts(found, width.hidden, training_.scale);
  if (width.map != nullptr) {
    std::fill(gradients.begin(), gradients.end(), 0.0f);
    width.map->scatter(found, gradients);
  }
  if (!training_.static_statistics) {
    for (const auto& [from, to] : width.statistics) weights[to] = work_[from];
  }
  return sums;
}

BatchSums NestedNet::train(const Batch& batch, std::span<float> weights, std::span<float> gradients,
                           const SgdUpdate* update) {
  ESPALIER_CHECK(!drawn_from_.empty(), "train() before start()");
  ESPALIER_CHECK(update == nullptr || can_fuse());
  const Width& width = *drawn_from_[Stream(key_.child(step_++)).below(drawn_from_.size())];
  Batch lesson = batch;
  lesson.classes = {};
  if (training_.masked_cross_entropy) lesson.classes = classes_;
  uint64_t teacher_macs = 0;
  if (training_.distillation > 0 && &width != widest_) {
    take_weights(*widest_, weights);
    // Stays valid: the drawn width is another net.
    lesson.teacher = widest_->net->forward_training(batch, work_);
    lesson.loss = {1 - training_.distillation, training_.distillation, training_.temperature};
    teacher_macs = widest_->net->macs_per_sample() * static_cast<uint64_t>(batch.size);
  }
  if (width.map != nullptr || training_.scale != 1) {
    BatchSums sums = train_copy(width, lesson, weights, gradients);
    sums.macs += teacher_macs;
    return sums;
  }

  if (training_.static_statistics) {
    kept_statistics_.clear();
    for (const auto& [from, to] : width.statistics) kept_statistics_.push_back(weights[to]);
  }
  BatchSums sums = width.net->train(lesson, weights, gradients, update);
  sums.macs += teacher_macs;
  for (size_t i = 0; i < kept_statistics_.size(); ++i)
    weights[width.statistics[i].second] = kept_statistics_[i];
  kept_statistics_.clear();
  return sums;
}

}  // namespace espalier::nn
