#include "espalier/run/simulation.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <sstream>

#include "espalier/base/clock.h"
#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/version.h"
#include "espalier/models/make_trainer.h"
#include "espalier/nn/graph_net.h"
#include "espalier/params/safetensors.h"
#include "espalier/report/human.h"
#include "espalier/run/class_figures.h"
#include "espalier/run/continuation.h"
#include "espalier/run/memory_parts.h"

namespace espalier::run {

namespace {

std::filesystem::path checkpoint_file(const report::RunFolder& folder) {
  return folder.checkpoint_path() / "checkpoint.safetensors";
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

Simulation::Simulation(RunConfig config, size_t num_threads, report::RunFolder* folder,
                       const std::vector<std::string>& assignments, SimulationHooks hooks)
    : config_(std::move(config)),
      hooks_(std::move(hooks)),
      folder_(folder),
      configuration_(configuration_fingerprint(config_)),
      num_threads_(num_threads) {
  Assembly::Options options{.num_threads = num_threads};
  options.wrap = hooks_.wrap;
  options.wrap_evaluator = hooks_.wrap_evaluator;
  std::optional<Json> kept;
  if (folder != nullptr) {
    options.scratch = folder->path();
    options.states = folder->checkpoint_path() / "clients";
    if (std::filesystem::exists(checkpoint_file(*folder))) {
      refuse_changes(config_, *folder);
      kept = folder->data();
    }
    if (report::RunFolder::is_run(folder->path()))
      notes_ = use_kept_inputs(config_, *folder, assignments);
  }
  Sources sources = load_sources(config_, num_threads, kept ? &*kept : nullptr, hooks_.load);
  sizes_ = sources.sizes;
  // One of the usual places may be another one tomorrow.
  if (config_.data.root.empty() && !sources.folder.empty())
    config_.resolved["data"]["root"] = config_.data.root = sources.folder.string();
  assembly_.emplace(config_, std::move(sources), options);
  values_ = loop().global().size();
  if (auto* own = assembly_->strategy().capabilities().own_model; own != nullptr) {
    server_parameters_ = 0;
    for (const auto& [name, part] : own->parts())
      *server_parameters_ += part.layout().num_trainable();
  }
  check_device_memory();
  notes_.insert(notes_.end(), assembly_->notes().begin(), assembly_->notes().end());
  if (!loop().submodels().active()) return;
  for (const std::string& note : models::unit_notes(config_.model, train::spec_of(*data().train)))
    notes_.push_back(concat("[submodel] ", note));
}

std::vector<std::string> Simulation::notes() const {
  std::vector<std::string> notes = notes_;
  const train::DataSpec spec = train::spec_of(*data().train);
  for (const std::string& note : models::model_notes(config_.model, spec))
    notes.push_back(concat("[model] ", note));
  const train::ScheduleOptions& schedule = config_.train.schedule;
  if (schedule.lr_schedule == "cosine" && config_.run.rounds > schedule.schedule_rounds) {
    notes.push_back(concat(
        "the cosine of train.lr_schedule ends with round ", schedule.schedule_rounds,
        "; later rounds keep its last rate, ",
        train::lr_at_round(schedule, config_.train.step.lr, schedule.schedule_rounds),
        " (--set train.schedule_rounds=", config_.run.rounds, " draws it anew over all rounds)"));
  }
  return notes;
}

std::vector<Json> Simulation::completed_rounds() const {
  if (folder_ == nullptr || loop().rounds_completed() == 0) return {};
  return folder_->metrics();
}

std::string Simulation::size_line() const {
  const auto bytes = [](uint64_t count) { return report::human_bytes(static_cast<double>(count)); };
  return concat(
      config_.model.name, ": ", report::human_count(static_cast<double>(sizes_.parameters)),
      " parameters, ", bytes(sizes_.message), " per message in float32; at least ",
      bytes(sizes_.total(num_threads_)), " of memory beside the program (server ",
      bytes(sizes_.server), ", ", num_threads_, num_threads_ == 1 ? " client" : " clients",
      " at a time ", bytes(sizes_.client), " each, data ", bytes(sizes_.data), ")");
}

// A device that could not hold its sub-model while training is refused before the run.
void Simulation::check_device_memory() const {
  for (const round::DeviceOptions& device : config_.devices) {
    if (device.memory_mb == 0) continue;
    const bool whole = round::has_whole_rounds(config_.submodel);
    const double keep = whole ? 1 : round::keep_of(config_.submodel, device);
    const auto units = loop().submodels().units(keep);
    const auto trainer = assembly_->make_trainer(units);
    const train::StepOptions& step = config_.train.step;
    const auto needed = static_cast<double>(trainer->training_bytes(step.batch_size, step));
    if (needed <= device.memory_mb * 1e6) continue;
    fail("config", "device '", device.name, "' has ", device.memory_mb, " MB, but training ",
         keep < 1 ? concat("its sub-model (keep = ", keep, ")") : std::string("the model"),
         " at train.batch_size = ", step.batch_size, " takes ", std::round(needed / 1e4) / 100,
         " MB; lower ", keep < 1 ? "its keep or " : "", "the batch size");
  }
}

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
    fail("simulate", path.string(), " was written with another configuration than that of ",
         folder_->config_path().string(), "; was one of the two replaced?");
  }
  if (static_cast<int64_t>(checkpoint.round) > config_.run.rounds) {
    fail("simulate", "the run has completed ", checkpoint.round,
         " rounds; rounds = ", config_.run.rounds, " would be fewer: raise it to go on");
  }
  assembly_->states().keep_only(checkpoint.state_versions);
  loop().restore(std::move(checkpoint));
  checkpointed_ = loop().rounds_completed();
  const uint64_t told = folder_->truncate_metrics(loop().rounds_completed());
  if (told < loop().rounds_completed()) {
    notes_.push_back(concat("metrics.jsonl has lost rounds: it has ", told, " of the ",
                            loop().rounds_completed(),
                            " before; the model and all totals are whole, curves are not"));
  }
  const auto lines = folder_->metrics();
  for (auto line = lines.rbegin(); line != lines.rend() && last_widths_.empty(); ++line) {
    for (const double width : config_.submodel.eval_widths) {
      if (const auto accuracy = report::number_in(*line, width_key(width)))
        last_widths_[width] = *accuracy;
    }
  }
  for (const Json& line : lines) {
    copy_class_figures(line, "", "final_", last_classes_);
    const double peak = report::number_in(line, "peak_rss_bytes").value_or(0);
    peak_before_ = std::max(peak_before_, static_cast<uint64_t>(peak));
    for (const char* share : kShares) {
      if (const auto found = report::number_in(line, share)) last_shares_[share] = *found;
    }
  }
  if (lines.empty()) return;
  wall_before_ = report::number_in(lines.back(), "wall_seconds").value_or(0);
  const RunConfig before = read_run_config(read_toml_file(folder_->config_path()));
  const int64_t old_rounds = before.train.schedule.schedule_rounds,
                new_rounds = config_.train.schedule.schedule_rounds;
  if (old_rounds != new_rounds) {
    notes_.push_back(concat("train.schedule_rounds was ", old_rounds, " and is ", new_rounds,
                            ": the learning rate goes from ",
                            report::number_in(lines.back(), "lr").value_or(0), " to ",
                            train::lr_at_round(config_.train.schedule, config_.train.step.lr,
                                               loop().rounds_completed())));
  }
}

std::optional<round::RoundRecord> Simulation::next_round(const volatile std::sig_atomic_t* stop) {
  while (!loop().finished() && (stop == nullptr || *stop == 0)) {
    try {
      return loop().run_round();
    } catch (const round::RoundFailed& failed) {
      const AfterFailure next = on_round_failed ? on_round_failed(failed) : AfterFailure::kFail;
      if (next == AfterFailure::kFail) throw;
      if (next == AfterFailure::kStop) break;
    }
  }
  return std::nullopt;
}

void Simulation::run(report::Progress* progress, const volatile std::sig_atomic_t* stop) {
  wall_.restart();
  if (folder_ != nullptr && loop().rounds_completed() == 0) {
    keep_inputs(config_, *folder_);
    folder_->write_data(describe_data(data()));
    write_clients();
    make_folder(folder_->checkpoint_path());
  }
  if (progress != nullptr || on_clients) {
    // Of the first client of this process; after a whole round the progress knows better.
    const auto first = std::make_shared<std::atomic<bool>>(true);
    loop().on_client = [this, progress, first](uint64_t done, uint64_t total) {
      if (on_clients) on_clients(done, total);
      if (progress == nullptr) return;
      if (first->exchange(false)) note_duration(*progress, total);
      progress->update_clients(done, total);
    };
  }
  try {
    while (const auto played = next_round(stop)) {
      const round::RoundRecord& record = *played;
      for (const auto& notes : {record.failures, record.notes}) {
        for (const std::string& note : notes) {
          if (progress != nullptr) progress->note(note);
          if (on_note) on_note(note);
        }
      }
      if (!record.width_accuracy.empty()) last_widths_ = record.width_accuracy;
      for (const char* share : kShares) {
        if (const auto found = record.extra.find(share); found != record.extra.end())
          last_shares_[share] = found->second;
      }
      add_class_figures(record.classes, "final_", last_classes_);
      const Json line = metrics_line(record);
      if (folder_ != nullptr) {
        folder_->append_metrics(line);
        if (record.round % static_cast<uint32_t>(config_.run.checkpoint_every) == 0)
          write_checkpoint();
      }
      if (progress != nullptr) progress->finish_round(line);
      if (on_round) on_round(line);
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

size_t Simulation::clients_at_a_time() const {
  return hooks_.clients_at_a_time ? hooks_.clients_at_a_time() : num_threads_;
}

// What the run will take, as far as its first client tells.
void Simulation::note_duration(report::Progress& progress, uint64_t clients) const {
  constexpr double kWorthSaying = 60;
  const double one = wall_.seconds();
  const double waves =
      std::ceil(static_cast<double>(clients) / static_cast<double>(clients_at_a_time()));
  const double rounds = static_cast<double>(config_.run.rounds - loop().rounds_completed());
  const double seconds = one * waves * rounds;
  if (seconds < kWorthSaying) return;
  progress.note(concat("about ", report::human_seconds(seconds), " for ", rounds, " rounds of ",
                       clients, " clients, by the first client's ", report::human_seconds(one),
                       " (evaluation apart)"));
}

// The global parameters as they are; with parts of its own, every set under its name.
void Simulation::write_model() {
  const std::map<std::string, std::string> metadata = {
      {"format", "pt"},
      {"model", config_.model.name},
      {kSamplesEntry, describe_samples(*data().train).dump()},
      {"rounds", std::to_string(loop().rounds_completed())},
      {"espalier", std::string(version())}};
  strategy::OwnModel* own = assembly_->strategy().capabilities().own_model;
  if (own == nullptr) {
    write_file_atomic(folder_->model_path(),
                      train::write_weights(loop().global(), assembly_->fixed(), metadata));
    return;
  }
  const auto parts = own->parts();
  std::map<std::string, const ParameterSet*> sets;
  for (const auto& [name, set] : parts) sets[name + "/"] = &set;
  std::map<uint64_t, ParameterSet> clients;  // keeps the sets alive
  if (const std::string name = own->client_set(); !name.empty())
    clients = loop().recall(name, notes_);
  for (const auto& [client, set] : clients) sets[concat("client-", client, "/")] = &set;
  write_file_atomic(folder_->model_path(), write_safetensors(sets, metadata));
}

uint64_t Simulation::peak_bytes() const {
  return std::max<uint64_t>(peak_before_, peak_rss_bytes());
}

double Simulation::wall_seconds() const { return wall_before_ + wall_.seconds(); }

// Who took part, in the line itself or, when they are many, in a file that the line names.
void Simulation::write_ids(const std::vector<uint64_t>& ids, const char* what, uint32_t round,
                           Json& line) const {
  if (ids.size() <= report::kMaxIdsInLine) {
    line[what] = ids;
  } else if (folder_ != nullptr) {
    line[concat(what, "_file")] = folder_->write_ids(what, round, ids);
  }
}

Json Simulation::metrics_line(const round::RoundRecord& record) const {
  const round::Ledger& ledger = loop().ledger();
  Json line = Json::object();
  line["round"] = record.round;
  if (record.accuracy) line["accuracy"] = *record.accuracy;
  if (record.loss) line["loss"] = *record.loss;
  add_class_figures(record.classes, "", line);
  line["train_loss"] = record.train_loss;
  line["train_accuracy"] = record.train_accuracy;
  line["clients_selected"] = record.clients;
  if (config_.run.record_clients) {
    write_ids(record.client_ids, "clients", record.round, line);
    if (!record.explorer_ids.empty())
      write_ids(record.explorer_ids, "explorers", record.round, line);
  }
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
  if (record.evaluation.bytes_down > 0) {
    line["evaluation_bytes_down"] = record.evaluation.bytes_down;
    line["evaluation_bytes_up"] = record.evaluation.bytes_up;
    line["evaluation_macs"] = record.evaluation.macs;
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
  out["parameters"] = loop().global().layout().num_trainable();
  if (server_parameters_) out["server_parameters"] = *server_parameters_;
  out["travelling_values"] = values_;
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
  out.update(last_classes_);
  out["bytes_down_total"] = ledger.bytes_down;
  out["bytes_up_total"] = ledger.bytes_up;
  // Of the rounds' training alone.
  out["bytes_down_per_client_round"] =
      per_update(ledger.bytes_down - ledger.exploration_bytes_down - ledger.evaluation_bytes_down,
                 ledger.client_updates + ledger.clients_failed);
  out["bytes_up_per_client_round"] =
      per_update(ledger.bytes_up - ledger.exploration_bytes_up - ledger.evaluation_bytes_up,
                 ledger.client_updates);
  if (ledger.exploration_bytes_up > 0) {
    out["exploration_bytes_down"] = ledger.exploration_bytes_down;
    out["exploration_bytes_up"] = ledger.exploration_bytes_up;
    out["exploration_macs"] = ledger.exploration_macs;
  }
  if (ledger.evaluation_bytes_down > 0) {
    out["evaluation_bytes_down"] = ledger.evaluation_bytes_down;
    out["evaluation_bytes_up"] = ledger.evaluation_bytes_up;
    out["evaluation_macs"] = ledger.evaluation_macs;
  }
  // What the model's weights would take in float32; nothing to compare with where none travel.
  if (!assembly_->strategy().traits().weights_travel) {
    out["dense_bytes_per_client_round"] = nullptr;
  } else {
    out["dense_bytes_per_client_round"] = values_ * sizeof(float);
  }
  out["downlink"] = assembly_->downlink().describe();
  out["uplink"] = assembly_->uplink().describe();
  out["client_macs_total"] = ledger.macs;
  out["eval_macs_total"] = ledger.eval_macs;
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
  Json& memory = out["memory_bytes"] = Json::object();
  for (const auto& [use, bytes] : memory_parts(count_memory(data()))) memory[use] = bytes;
  out["threads"] = clients_at_a_time();
  if (hooks_.processes > 1) out["ranks"] = hooks_.processes;
  out["notes"] = notes();
  out["version"] = version();
  out["build"] = build_id();
  out["instructions"] = nn::instructions();
  return out;
}

}  // namespace espalier::run
