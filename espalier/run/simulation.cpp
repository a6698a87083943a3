#include "espalier/run/simulation.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "espalier/base/clock.h"
#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/models/make_trainer.h"
#include "espalier/params/safetensors.h"

namespace espalier::run {

namespace {

std::filesystem::path checkpoint_file(const report::RunFolder& folder) {
  return folder.checkpoint_path() / "checkpoint.safetensors";
}

// What must not change between a run and its continuation: everything but how long it runs and how
// often it is looked at.
uint64_t configuration_fingerprint(const RunConfig& config) {
  Json kept = config.resolved;
  for (const char* key :
       {"rounds", "eval_every", "eval_batch", "checkpoint_every", "client_state_mb"})
    kept.erase(key);
  std::string text = kept.dump();
  // A module's file is the model: its code, and what of it is not trained.
  if (!config.model.file.empty() && std::filesystem::is_regular_file(config.model.file))
    text += sha256_hex(read_file(config.model.file));
  return round::fingerprint(text);
}

// What strategies measure of how much is left or sent; the last round's is in the summary.
constexpr const char* kShares[] = {"mask_kept", "part_parameters", "gate_ratio", "sent_share"};

// "accuracy_at_0.25"
std::string width_key(double width) {
  std::ostringstream text;
  text << "accuracy_at_" << width;
  return text.str();
}

}  // namespace

Simulation::Simulation(RunConfig config, size_t num_threads, const std::filesystem::path& folder)
    : config_(std::move(config)),
      configuration_(configuration_fingerprint(config_)),
      num_threads_(num_threads) {
  Assembly::Options options{.num_threads = num_threads};
  if (!folder.empty()) {
    options.scratch = folder;
    options.states = report::RunFolder::checkpoint_path(folder) / "clients";
  }
  assembly_.emplace(config_, load_sources(config_), options);
  parameters_ = loop().global().size();
  check_device_memory();
}

std::vector<std::string> Simulation::notes() const {
  const train::DataSpec spec = train::spec_of(*data().train);
  std::vector<std::string> notes;
  for (const std::string& note : models::model_notes(config_.model, spec))
    notes.push_back(concat("[model] ", note));
  if (!loop().submodels().active()) return notes;
  for (const std::string& note : models::unit_notes(config_.model, spec))
    notes.push_back(concat("[submodel] ", note));
  return notes;
}

// A device that could not hold its sub-model while training is refused before the run.
void Simulation::check_device_memory() const {
  for (const round::DeviceOptions& device : config_.devices) {
    if (device.memory_mb == 0) continue;
    const auto units =
        submodel::kept_units(round::keep_of(config_.submodel, device), loop().global().layout());
    const auto trainer = assembly_->make_trainer(units);
    const train::StepOptions& step = config_.train.step;
    const auto needed = static_cast<double>(trainer->training_bytes(step.batch_size, step));
    if (needed <= device.memory_mb * 1e6) continue;
    fail("config", "device '", device.name, "' has ", device.memory_mb,
         " MB, but training its sub-model (keep = ", device.keep,
         ") at train.batch_size = ", step.batch_size, " takes ", std::round(needed / 1e4) / 100,
         " MB; lower its keep or the batch size");
  }
}

void Simulation::attach(report::RunFolder& folder) { folder_ = &folder; }

void Simulation::resume() {
  ESPALIER_CHECK(folder_ != nullptr);
  const auto path = checkpoint_file(*folder_);
  if (!std::filesystem::exists(path) && !folder_->summary()) {
    // Killed before its first checkpoint: nothing is lost but time.
    folder_->truncate_metrics(0);
    assembly_->states().keep_only({});
    return;
  }
  round::Checkpoint checkpoint = round::read_checkpoint(path, loop().global().shared_layout());
  if (checkpoint.configuration != configuration_) {
    fail("simulate", path.string(),
         " was written with another configuration; only rounds, eval_every and checkpoint_every "
         "may change",
         config_.model.file.empty() ? "" : ", and the file of model.file must be the same");
  }
  assembly_->states().keep_only(checkpoint.state_versions);
  loop().restore(std::move(checkpoint));
  checkpointed_ = loop().rounds_completed();
  folder_->truncate_metrics(loop().rounds_completed());
  const auto lines = folder_->metrics();
  for (auto line = lines.rbegin(); line != lines.rend() && last_widths_.empty(); ++line) {
    for (const double width : config_.submodel.eval_widths) {
      if (const auto accuracy = report::number_in(*line, width_key(width)))
        last_widths_[width] = *accuracy;
    }
  }
  for (const Json& line : lines) {
    const double peak = report::number_in(line, "peak_rss_bytes").value_or(0);
    peak_before_ = std::max(peak_before_, static_cast<uint64_t>(peak));
    for (const char* share : kShares) {
      if (const auto found = report::number_in(line, share)) last_shares_[share] = *found;
    }
  }
  if (!lines.empty()) wall_before_ = report::number_in(lines.back(), "wall_seconds").value_or(0);
}

void Simulation::run(report::Progress* progress, const volatile std::sig_atomic_t* stop) {
  wall_.restart();
  if (folder_ != nullptr && loop().rounds_completed() == 0) {
    write_clients();
    make_folder(folder_->checkpoint_path());
  }
  if (progress != nullptr) {
    loop().on_client = [progress](uint64_t done, uint64_t total) {
      progress->update_clients(done, total);
    };
  }
  try {
    while (!loop().finished() && (stop == nullptr || *stop == 0)) {
      const round::RoundRecord record = loop().run_round();
      if (progress != nullptr) {
        for (const std::string& failure : record.failures) progress->note(failure);
        for (const std::string& note : record.notes) progress->note(note);
      }
      if (!record.width_accuracy.empty()) last_widths_ = record.width_accuracy;
      for (const char* share : kShares) {
        if (const auto found = record.extra.find(share); found != record.extra.end())
          last_shares_[share] = found->second;
      }
      const Json line = metrics_line(record);
      if (folder_ != nullptr) {
        folder_->append_metrics(line);
        if (record.round % static_cast<uint32_t>(config_.run.checkpoint_every) == 0)
          write_checkpoint();
      }
      if (progress != nullptr) progress->finish_round(line);
    }
  } catch (const round::RoundFailed&) {
    if (progress != nullptr) progress->finish();
    if (folder_ != nullptr && loop().rounds_completed() > 0) write_checkpoint();
    throw;
  } catch (...) {
    if (progress != nullptr) progress->finish();
    throw;
  }
  if (progress != nullptr) progress->finish();
  if (folder_ == nullptr) return;
  write_checkpoint();
  write_model();
  folder_->write_summary(summary());
}

// The global parameters as they are; with parts of its own, every set under its name.
void Simulation::write_model() {
  const std::map<std::string, std::string> metadata = {
      {"format", "pt"},
      {"model", config_.model.name},
      {"rounds", std::to_string(loop().rounds_completed())},
      {"espalier", ESPALIER_VERSION}};
  strategy::OwnModel* own = assembly_->strategy().capabilities().own_model;
  if (own == nullptr) {
    write_file_atomic(folder_->model_path(),
                      train::write_weights(loop().global(), assembly_->fixed(), metadata));
    return;
  }
  const auto parts = own->parts();
  std::map<std::string, const ParameterSet*> sets;
  for (const auto& [name, set] : parts) sets[name + "/"] = &set;
  std::vector<std::shared_ptr<const client::ClientState>> states;  // keeps the sets alive
  if (const std::string name = own->client_set(); !name.empty()) {
    for (const auto& [client, version] : loop().state_versions()) {
      states.push_back(assembly_->states().get(client, version));
      const auto found = states.back()->sets.find(name);
      if (found != states.back()->sets.end()) sets[concat("client-", client, "/")] = &found->second;
    }
  }
  write_file_atomic(folder_->model_path(), write_safetensors(sets, metadata));
}

uint64_t Simulation::peak_bytes() const {
  return std::max<uint64_t>(peak_before_, peak_rss_bytes());
}

double Simulation::wall_seconds() const { return wall_before_ + wall_.seconds(); }

Json Simulation::metrics_line(const round::RoundRecord& record) const {
  const round::Ledger& ledger = loop().ledger();
  Json line = Json::object();
  line["round"] = record.round;
  if (record.accuracy) line["accuracy"] = *record.accuracy;
  if (record.loss) line["loss"] = *record.loss;
  line["train_loss"] = record.train_loss;
  line["train_accuracy"] = record.train_accuracy;
  line["clients"] = record.clients;
  line["clients_failed"] = record.clients_failed;
  if (record.deliveries_refused > 0) line["deliveries_refused"] = record.deliveries_refused;
  line["bytes_down"] = record.bytes_down;
  line["bytes_up"] = record.bytes_up;
  line["bytes_down_total"] = ledger.bytes_down;
  line["bytes_up_total"] = ledger.bytes_up;
  line["macs"] = record.macs;
  line["macs_total"] = ledger.macs;
  if (record.exploration.clients > 0) {
    line["exploration_clients"] = record.exploration.clients;
    line["exploration_bytes_down"] = record.exploration.bytes_down;
    line["exploration_bytes_up"] = record.exploration.bytes_up;
    line["exploration_macs"] = record.exploration.macs;
  }
  if (loop().devices().timed()) {
    line["simulated_seconds"] = record.simulated.total();
    line["simulated_down_seconds"] = record.simulated.down;
    line["simulated_compute_seconds"] = record.simulated.compute;
    line["simulated_up_seconds"] = record.simulated.up;
    line["simulated_seconds_total"] = ledger.simulated_seconds;
  }
  for (const auto& [width, accuracy] : record.width_accuracy) line[width_key(width)] = accuracy;
  for (const auto& [name, value] : record.extra) line[name] = value;
  line["seconds"] = record.seconds;
  line["train_seconds"] = record.train_seconds;
  line["eval_seconds"] = record.eval_seconds;
  line["wall_seconds"] = wall_seconds();
  line["lr"] = record.lr;
  line["peak_rss_bytes"] = peak_rss_bytes();
  return line;
}

void Simulation::write_checkpoint() {
  if (checkpointed_ == loop().rounds_completed()) return;
  round::write_checkpoint(checkpoint_file(*folder_), loop().checkpoint(configuration_));
  loop().checkpoint_written();
  checkpointed_ = loop().rounds_completed();
}

void Simulation::write_clients() const {
  report::ClientHistogram histogram;
  histogram.classes = static_cast<uint64_t>(data().train->num_classes);
  histogram.num_clients = partition().num_clients();
  std::vector<uint32_t> samples;
  const uint64_t shown = std::min<uint64_t>(partition().num_clients(), report::kMaxStoredClients);
  for (uint64_t client = 0; client < shown; ++client) {
    partition().samples(client, samples);
    report::ClientLabels labels{client, samples.size(),
                                std::vector<uint64_t>(histogram.classes, 0)};
    for (uint32_t sample : samples)
      ++labels.labels[static_cast<size_t>(data().train->labels[sample])];
    histogram.clients.push_back(std::move(labels));
  }
  folder_->write_clients(histogram);
}

Json Simulation::summary() const {
  const round::Ledger& ledger = loop().ledger();
  const auto per_update = [](int64_t bytes, int64_t count) {
    return count > 0 ? static_cast<double>(bytes) / static_cast<double>(count) : 0.0;
  };
  Json out = Json::object();
  out["strategy"] = config_.selection.name;
  out["model"] = config_.model.name;
  out["dataset"] = config_.data.name;
  out["partition"] = config_.partition.name;
  out["clients"] = partition().num_clients();
  out["parameters"] = parameters_;
  out["seed"] = config_.run.seed;
  out["rounds"] = config_.run.rounds;
  out["rounds_completed"] = loop().rounds_completed();
  if (ledger.evaluated) {
    out["final_accuracy"] = ledger.final_accuracy;
    out["best_accuracy"] = ledger.best_accuracy;
    out["final_loss"] = ledger.final_loss;
  } else {
    out["final_accuracy"] = out["best_accuracy"] = out["final_loss"] = nullptr;
  }
  out["bytes_down_total"] = ledger.bytes_down;
  out["bytes_up_total"] = ledger.bytes_up;
  // Of the rounds' training alone.
  out["bytes_down_per_client_round"] = per_update(ledger.bytes_down - ledger.exploration_bytes_down,
                                                  ledger.client_updates + ledger.clients_failed);
  out["bytes_up_per_client_round"] =
      per_update(ledger.bytes_up - ledger.exploration_bytes_up, ledger.client_updates);
  if (ledger.exploration_bytes_up > 0) {
    out["exploration_bytes_down"] = ledger.exploration_bytes_down;
    out["exploration_bytes_up"] = ledger.exploration_bytes_up;
    out["exploration_macs"] = ledger.exploration_macs;
  }
  // What the model's weights would take in float32; nothing to compare with where none travel.
  if (!assembly_->strategy().traits().weights_travel) {
    out["dense_bytes_per_client_round"] = nullptr;
  } else {
    out["dense_bytes_per_client_round"] = parameters_ * sizeof(float);
  }
  out["downlink"] = assembly_->downlink().describe();
  out["uplink"] = assembly_->uplink().describe();
  out["client_macs_total"] = ledger.macs;
  if (loop().devices().timed()) out["simulated_seconds"] = ledger.simulated_seconds;
  if (loop().submodels().active()) {
    out["submodel"] = config_.submodel.name;
    for (const auto& [width, accuracy] : last_widths_) out["final_" + width_key(width)] = accuracy;
  }
  if (config_.run.target_accuracy > 0) {
    out["target_accuracy"] = config_.run.target_accuracy;
    const bool reached = ledger.target_round > 0;
    out["target_round"] = reached ? Json(ledger.target_round) : Json(nullptr);
    out["target_bytes_down"] = reached ? Json(ledger.target_bytes_down) : Json(nullptr);
    out["target_bytes_up"] = reached ? Json(ledger.target_bytes_up) : Json(nullptr);
    out["target_macs"] = reached ? Json(ledger.target_macs) : Json(nullptr);
    out["target_seconds"] = reached ? Json(ledger.target_seconds) : Json(nullptr);
  }
  for (const auto& [share, value] : last_shares_) out["final_" + share] = value;
  out["client_train_seconds"] = ledger.client_seconds;
  out["client_updates"] = ledger.client_updates;
  out["client_updates_per_second"] =
      ledger.train_seconds > 0 ? static_cast<double>(ledger.client_updates) / ledger.train_seconds
                               : 0.0;
  out["clients_failed"] = ledger.clients_failed;
  out["wall_seconds"] = wall_seconds();
  out["train_seconds"] = ledger.train_seconds;
  out["eval_seconds"] = ledger.eval_seconds;
  out["peak_rss_bytes"] = peak_bytes();
  out["threads"] = num_threads_;
  out["version"] = ESPALIER_VERSION;
  return out;
}

}  // namespace espalier::run
