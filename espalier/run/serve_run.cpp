#include "espalier/run/serve_run.h"

#include <sys/random.h>

#include <cerrno>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/version.h"
#include "espalier/codec/message.h"
#include "espalier/round/refusals.h"
#include "espalier/rpc/certificates.h"

namespace espalier::run {

namespace fs = std::filesystem;

namespace {

constexpr uint32_t kGrace_ms = 1000;  // for calls in progress when the server stops listening

// A run has one number for its whole life, so that clients know it again.
uint64_t run_number(const fs::path& file) {
  if (fs::exists(file)) {
    const Bytes bytes = read_file(file);
    return ByteReader(bytes, file.string()).get<uint64_t>();
  }
  uint64_t number = 0;
  while (number == 0) {
    if (::getrandom(&number, sizeof(number), 0) != static_cast<ssize_t>(sizeof(number)))
      fail("serve", "the system gives no randomness: ", std::strerror(errno));
  }
  Bytes bytes;
  ByteWriter(bytes).put(number);
  write_file_atomic(file, bytes);
  return number;
}

rpc::DataSpec spec_of(const data::Dataset& train) {
  return {static_cast<uint32_t>(train.kind),
          train.sample_shape,
          train.num_classes,
          train.vocabulary,
          train.mean,
          train.stddev,
          train.fill};
}

// What decides which options go together; `choices` refers to the rest.
struct Decisions {
  explicit Decisions(const RunConfig& config)
      : strategy(make_strategy(config)),
        uplink(codec::make_codec(config.uplink, "uplink")),
        downlink(codec::make_codec(config.downlink, "downlink")),
        traits(strategy->traits()),
        choices{traits,         config.selection, config.run, config.submodel,
                config.devices, *uplink,          *downlink} {}
  Decisions(const Decisions&) = delete;
  Decisions& operator=(const Decisions&) = delete;

  std::unique_ptr<strategy::Strategy> strategy;
  std::unique_ptr<codec::Codec> uplink, downlink;
  strategy::Traits traits;
  round::Choices choices;
};

// What a client must know: neither seed nor partition nor any path.
std::string client_config(const RunConfig& config) {
  models::ModelOptions model = config.model;
  model.init.clear();
  Json out = {{"model", changed_options(model)}};
  out["model"]["name"] = model.name;
  if (!model.file.empty()) {
    // Code does not travel: clients have the module, and this says which.
    out["model"].erase("file");
    out["module_sha256"] = sha256_hex(read_file(model.file));
  }
  out["hardware"] = {{"precision", config.train.hardware.precision}};
  out["downlink"] = config.downlink;
  out["uplink"] = config.uplink;
  out["stages"] = round::update_stages(round::choose_feedback(Decisions(config).choices));
  return out.dump();
}

// What a client remembers is of no use when it may never come back, and sums over all clients have
// no meaning when nobody knows how many there are.
void refuse_memory(const RunConfig& config) {
  const Decisions run(config);
  const bool remember = run.traits.client_state || !run.traits.weights_travel;
  const char* what = remember ? "its clients remember"
                     : run.strategy->capabilities().preparation != nullptr
                         ? "it explores with all of its clients"
                     : round::choose_feedback(run.choices) != round::Feedback::kNone
                         ? "error feedback is remembered by clients"
                     : config.run.delta_downlink ? "delta_downlink is remembered by clients"
                                                 : nullptr;
  if (what != nullptr)
    fail("serve", "server.population = \"open\" does not go with strategy '", config.selection.name,
         "' and these links: ", what,
         "; use a fixed population, or what remembers nothing (fedavg, "
         "fedprox, fedadam with an unbiased uplink)");
}

// The longest update that is taken. What the model's values take many times over is enough for
// every link and for whatever a strategy sends besides the change of the weights; features have
// a size of their own.
uint64_t longest_update(const NetworkSection& network, bool weights_travel, uint64_t values) {
  constexpr uint64_t kMega = 1'000'000, kFeatures = 1024 * kMega, kRoom = 16 * kMega, kTimes = 8;
  if (network.max_update_mb > 0) return static_cast<uint64_t>(network.max_update_mb) * kMega;
  return weights_travel ? kRoom + kTimes * sizeof(float) * values : kFeatures;
}

}  // namespace

ServeRun::ServeRun(RunConfig config, const NetworkConfig& network, bool insecure,
                   size_t num_threads, report::RunFolder& folder,
                   const volatile std::sig_atomic_t* stop, bool show_events,
                   const std::vector<std::string>& assignments)
    : network_(network), stop_(stop) {
  if (network_.server.population == "open") refuse_memory(config);
  rpc::ServerOptions listening;
  listening.listen = network_.server.listen;
  if (insecure) {
    if (!rpc::is_loopback(listening.listen))
      fail("serve", "--insecure is for this machine alone, and server.listen = \"",
           listening.listen, "\" is open to others; leave one of the two out");
    listening.credentials.insecure = true;
  } else {
    const SecuritySection& security = network_.security;
    listening.credentials = rpc::read_credentials(security.ca, security.cert, security.key);
    if (!security.revoked.empty()) {
      revocations_ = std::make_unique<rpc::Revocations>(security.revoked);
      listening.revoked = [this](const std::string& serial) {
        return revocations_->contains(serial);
      };
    }
    listening.federation = security.federation.empty() && !security.revoked.empty()
                               ? rpc::federation_of(security.revoked)
                               : security.federation;
    if (listening.federation.empty())
      fail("serve", "security.federation is missing: the name in the clients' certificates");
  }
  const auto ms = [](double seconds) { return static_cast<uint32_t>(seconds * 1000); };
  listening.chunk_bytes = static_cast<uint32_t>(network_.network.chunk_kb << 10);
  listening.window_bytes = static_cast<uint32_t>(network_.network.window_kb << 10);
  listening.memory_bytes = static_cast<uint64_t>(network_.network.memory_mb) << 20;
  listening.checkins_per_s = network_.security.checkins_per_s;
  listening.calls_per_s = network_.security.calls_per_s;
  listening.keepalive_ms = ms(network_.network.keepalive_s);
  listening.stall_s = network_.network.stall_s;

  serve::NetworkOptions options;
  options.client_config = client_config(config);
  options.version = {rpc::kProtocol, wire::kMessageVersion, codec::kFormatVersion,
                     std::string(version())};
  options.folder = folder.path() / "server";
  options.workers = num_threads;
  options.max_uploads = static_cast<uint32_t>(network_.network.max_uploads);
  options.max_samples = static_cast<uint64_t>(network_.security.max_samples);
  options.round_deadline_s = network_.server.round_deadline_s;
  options.min_fraction = network_.server.min_fraction;
  options.open = network_.server.population == "open";
  options.over_selection = network_.server.over_selection;
  options.select_window_s = network_.server.select_window_s;
  options.spool_bytes = static_cast<uint64_t>(network_.network.spool_mb) * 1'000'000;
  options.stop = stop;
  options.recall_deadline_s = std::max(30.0, network_.server.goodbye_s);
  options.drain_s = network_.server.drain_s;
  options.on_event = [this](const Json& event) { events_.write(event); };
  options.poll_ms = ms(network_.network.poll_s);
  options.heartbeat_ms = ms(network_.network.heartbeat_s);
  options.lease_ms = ms(network_.network.lease_s);
  make_folder(options.folder);
  if (show_events) events_.show();
  events_.open(options.folder / "events.jsonl");
  options.run = run_number(options.folder / "run");
  SimulationHooks hooks;
  hooks.wrap = [&](round::Backend& simulator) -> round::Backend& {
    options.num_clients = simulator.num_clients();
    backend_ = std::make_unique<serve::NetworkBackend>(options);
    return *backend_;
  };
  const bool weights_travel = Decisions(config).traits.weights_travel;
  simulation_.emplace(std::move(config), num_threads, &folder, assignments, std::move(hooks));
  backend_->describe(spec_of(*simulation_->data().train));
  backend_->limit_updates(
      longest_update(network_.network, weights_travel, simulation_->loop().global().size()));
  server_ = std::make_unique<rpc::Server>(listening, *backend_);
}

ServeRun::~ServeRun() { server_.reset(); }

bool ServeRun::wait_for_clients(const std::function<void(uint64_t, uint64_t)>& tell) {
  return backend_->wait_for_clients(network_.server.enrol_deadline_s, stop_, tell);
}

void ServeRun::run(report::Progress* progress) {
  int64_t attempts = 0;
  uint32_t round = 0;
  simulation_->on_round_failed = [&, this](const round::RoundFailed& failed) {
    using After = Simulation::AfterFailure;
    if (stop_ != nullptr && *stop_ != 0) return After::kStop;
    const uint32_t now = simulation_->loop().rounds_completed() + 1;
    attempts = now == round ? attempts + 1 : 1;
    round = now;
    if (attempts >= network_.server.max_attempts) return After::kFail;
    const std::string note = concat(failed.what(), "; the round is repeated");
    if (progress != nullptr) progress->note(note);
    if (simulation_->on_note) simulation_->on_note(note);
    return After::kRepeat;
  };
  simulation_->run(progress, stop_);
}

void ServeRun::finish(bool completed, const std::string& reason) {
  backend_->finish(completed, reason, network_.server.goodbye_s);
  server_->stop(kGrace_ms);
}

void ServeRun::go_away() {
  backend_->go_away();
  server_->stop(kGrace_ms);
}

}  // namespace espalier::run
