#include "espalier/run/assembly.h"

#include <algorithm>
#include <iterator>

#include "espalier/base/memory_use.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/round/refusals.h"
#include "espalier/run/model_checks.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/train/rehearsal.h"

namespace espalier::run {

// Misspelled names are refused, and what a codec has no effect on is said.
void Assembly::check_codecs(const std::shared_ptr<const ParameterLayout>& layout) {
  const std::string weight = concat("weight of model ", model_.name);
  std::vector<ParameterInfo> down = layout->tensors();
  std::string note;
  if (const auto* own = strategy_->capabilities().own_model; own != nullptr) {
    const auto travelling = own->travelling();
    std::ranges::copy(travelling.down->tensors(), std::back_inserter(down));
    codec::require_named_tensors(*uplink_, *travelling.up, "uplink");
    note = codec::idle_note(*uplink_, *travelling.bulk, "uplink", travelling.what);
  } else {
    codec::require_named_tensors(*uplink_, *layout, "uplink");
    note = codec::idle_note(*uplink_, *layout, "uplink", weight);
  }
  for (ParameterInfo& tensor : down) tensor.units.clear();
  codec::require_named_tensors(*downlink_, ParameterLayout(std::move(down)), "downlink");
  for (const std::string& one : {codec::idle_note(*downlink_, *layout, "downlink", weight), note})
    if (!one.empty()) notes_.push_back(one);
}

Assembly::Assembly(const RunConfig& config, Sources sources, const Options& options)
    : model_(config.model),
      hardware_(config.train.hardware),
      data_(std::move(sources.data)),
      fixed_(std::move(sources.fixed)),
      notes_(std::move(sources.notes)),
      partition_(std::move(sources.partition)),
      strategy_(make_strategy(config)),
      downlink_(codec::make_codec(config.downlink, "downlink")),
      uplink_(codec::make_codec(config.uplink, "uplink")),
      states_(static_cast<uint64_t>(config.run.client_state_mb) * 1'000'000) {
  const MemoryScope scope(MemoryUse::kServer);
  if (!options.states.empty()) states_.set_folder(options.states);
  const auto layout = sources.initial.shared_layout();
  workers_ = std::make_unique<train::Workers>(
      options.num_threads, [this](std::span<const int64_t> units) { return make_trainer(units); },
      models::configure_thread);
  evaluator_ = std::make_unique<train::WorkersEvaluator>(
      *workers_, *data_.test, layout, static_cast<size_t>(config.run.eval_batch));

  const strategy::Traits traits = strategy_->traits();
  const round::Choices choices{traits,         config.selection, config.run, config.submodel,
                               config.devices, *uplink_,         *downlink_};
  client::ClientEnvironment environment{
      .algorithms = strategy::client_algorithms(),
      .downlink = *downlink_,
      .uplink = *uplink_,
      .limits = {layout, client::max_task_values(*layout)},
      .stages = client::find_update_stages(round::update_stages(round::choose_feedback(choices)))};
  simulator_ = std::make_unique<sim::SimBackend>(
      sim::SimBackend::Setup{data_, *partition_, *workers_, states_, environment});
  round::Backend& backend = options.wrap ? options.wrap(*simulator_) : *simulator_;
  train::Evaluator& evaluator =
      options.wrap_evaluator ? options.wrap_evaluator(*evaluator_) : *evaluator_;

  strategy::ServerSetup server{.layout = layout,
                               .num_clients = backend.num_clients(),
                               .model = config.model,
                               .data = train::spec_of(*data_.train),
                               .train = config.train.step,
                               .uplink = uplink_.get(),
                               .num_threads = options.num_threads,
                               .key = Key(static_cast<uint64_t>(config.run.seed)),
                               .scratch = options.scratch};
  loop_ = std::make_unique<round::RoundLoop>(round::RoundLoop::Setup{.run = config.run,
                                                                     .selection = config.selection,
                                                                     .train = config.train,
                                                                     .submodel = config.submodel,
                                                                     .devices = config.devices,
                                                                     .strategy = *strategy_,
                                                                     .downlink = *downlink_,
                                                                     .uplink = *uplink_,
                                                                     .backend = backend,
                                                                     .evaluator = evaluator,
                                                                     .server = std::move(server)},
                                             std::move(sources.initial));
  check_codecs(layout);
  notes_.insert(notes_.end(), loop_->notes().begin(), loop_->notes().end());
}

std::unique_ptr<train::Trainer> Assembly::make_trainer(std::span<const int64_t> units) const {
  return models::make_trainer(model_, train::spec_of(*data_.train), hardware_, units);
}

}  // namespace espalier::run
