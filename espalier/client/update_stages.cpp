#include "espalier/client/update_stages.h"

#include <algorithm>
#include <optional>

#include "espalier/base/error.h"
#include "espalier/base/options.h"
#include "espalier/codec/feedback.h"

namespace espalier::client {
namespace {

std::string memory_name(const std::string& payload) { return "feedback." + payload; }

// What the client remembers for a payload of this layout, or zeros; compact under a mask.
ParameterSet memory(const StageInput& input, const std::shared_ptr<const ParameterLayout>& layout) {
  if (input.previous != nullptr) {
    const auto found = input.previous->sets.find(memory_name(input.payload));
    if (found != input.previous->sets.end() && found->second.layout() == input.layout)
      return input.mask != nullptr ? input.mask->compact(found->second) : found->second;
  }
  return ParameterSet(layout);
}

class Residual final : public UpdateStage {
 public:
  ParameterSet before(const StageInput& input, const ParameterSet& x) override {
    feedback_.emplace(memory(input, x.shared_layout()));
    return feedback_->wanted(x);
  }
  bool looks_back() const override { return true; }
  void after(const StageInput& input, const ParameterSet& sent, ParameterSet& received,
             ClientState& next) override {
    feedback_->settle(sent, received);
    const ParameterSet& residual = feedback_->residual();
    next.sets.insert_or_assign(memory_name(input.payload),
                               input.mask != nullptr ? input.mask->expand(residual) : residual);
  }

 private:
  std::optional<codec::ResidualFeedback> feedback_;
};

class Estimate final : public UpdateStage {
 public:
  ParameterSet before(const StageInput& input, const ParameterSet& x) override {
    feedback_.emplace(memory(input, x.shared_layout()));
    return feedback_->difference(x);
  }
  bool looks_back() const override { return true; }
  void after(const StageInput& input, const ParameterSet&, ParameterSet& received,
             ClientState& next) override {
    feedback_->add(received);
    received = feedback_->estimate();
    ParameterSet estimate = received;
    // Statistics and counters travel whole every time: their estimate stays 0 on both sides.
    for (const ParameterInfo& tensor : estimate.layout().tensors()) {
      if (!is_trainable(tensor.role)) std::ranges::fill(estimate.values(tensor), 0.0f);
    }
    next.sets.insert_or_assign(memory_name(input.payload), std::move(estimate));
  }

 private:
  std::optional<codec::Ef21> feedback_;
};

template <class Stage>
std::unique_ptr<UpdateStage> make() {
  return std::make_unique<Stage>();
}

}  // namespace

const std::vector<UpdateStageRow>& update_stage_rows() {
  static const std::vector<UpdateStageRow> rows = {
      {"residual", true, true, make<Residual>},
      {"ef21", false, true, make<Estimate>},
  };
  return rows;
}

UpdateStages find_update_stages(const std::vector<std::string>& names) {
  UpdateStages stages;
  std::vector<std::string> known;
  for (const UpdateStageRow& row : update_stage_rows()) known.push_back(row.name);
  for (const std::string& name : names) {
    const auto found = std::ranges::find(update_stage_rows(), name, &UpdateStageRow::name);
    if (found == update_stage_rows().end())
      fail("client/stages", unknown_name_message("update stage", name, known));
    if (found->remembers &&
        std::ranges::any_of(stages, [](const auto* stage) { return stage->remembers; }))
      fail("client/stages", "stage '", name, "' would share its memory with the one before it");
    stages.push_back(&*found);
  }
  return stages;
}

void encode_through(const UpdateStages& stages, const codec::Codec& codec,
                    const ClientState* previous, const wire::Payload& payload,
                    const prune::Mask* mask, Key key, ClientState& next, Bytes& out) {
  ParameterSet compact;
  if (mask != nullptr) compact = mask->compact(*payload.values);
  const ParameterSet* x = mask != nullptr ? &compact : payload.values.get();
  const StageInput input{payload.name, previous, mask, payload.values->layout()};
  std::vector<std::unique_ptr<UpdateStage>> made;
  std::vector<ParameterSet> sent;
  sent.reserve(stages.size());
  bool looks_back = false;
  for (const UpdateStageRow* row : stages) {
    if (mask != nullptr && !row->masks)
      fail("client/stages", "stage '", row->name, "' cannot work on a masked payload");
    made.push_back(row->make());
    sent.push_back(made.back()->before(input, *x));
    x = &sent.back();
    looks_back = looks_back || made.back()->looks_back();
  }
  const size_t start = out.size();
  codec.encode(*x, key, out);
  if (!looks_back) return;
  ParameterSet received(x->shared_layout());
  codec.decode(std::span(out).subspan(start), received);
  for (size_t i = made.size(); i-- > 0;) made[i]->after(input, sent[i], received, next);
}

}  // namespace espalier::client
