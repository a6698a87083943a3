#include "espalier/run/assembly.h"

#include "espalier/base/memory_use.h"
#include "espalier/codec/rules.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/round/refusals.h"
#include "espalier/run/model_checks.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/train/rehearsal.h"

namespace espalier::run {

// Of the model's weights: misspelled names are refused, and what is too small is said.
void Assembly::check_codec(const codec::Codec& codec, const ParameterLayout& layout,
                           const std::string& path) {
  codec::require_named_tensors(codec, layout, path);
  if (codec.lossless() || codec.coverage(layout).coded_values > 0) return;
  notes_.push_back(concat("[[", path, "]] codes nothing: every weight of model ", model_.name,
                          " has fewer than ", codec::kMinCodedSize,
                          " values, and so small tensors travel as float32"));
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
  if (traits.weights_travel) {
    check_codec(*downlink_, *layout, "downlink");
    check_codec(*uplink_, *layout, "uplink");
  }
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
  notes_.insert(notes_.end(), loop_->notes().begin(), loop_->notes().end());
}

std::unique_ptr<train::Trainer> Assembly::make_trainer(std::span<const int64_t> units) const {
  return models::make_trainer(model_, train::spec_of(*data_.train), hardware_, units);
}

}  // namespace espalier::run
