#include "espalier/client/recall.h"

#include "espalier/base/error.h"

namespace espalier::client {

wire::Update Recall::run(ClientContext& context, const wire::Task&) const {
  const auto* state = context.previous;
  if (state == nullptr || !state->sets.contains(options_.set))
    fail("round/client", "this client remembers no '", options_.set, "'");
  wire::Update update;
  update.num_samples = static_cast<double>(context.samples.size());
  update.payloads.push_back({options_.set,
                             std::make_shared<const ParameterSet>(state->sets.at(options_.set)),
                             update.num_samples});
  update.payloads.back().coding = wire::Coding::kExact;
  return update;
}

}  // namespace espalier::client
