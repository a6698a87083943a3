#include "espalier/run/rank_run.h"

#include <csignal>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/version.h"
#include "espalier/nn/graph_net.h"
#include "espalier/run/sources.h"

namespace espalier::run {

// The simulator's clients, trained by its threads.
class RankRun::Clients final : public mpi::LocalClients {
 public:
  explicit Clients(sim::SimBackend& simulator) : simulator_(simulator) {}
  // With a simulation of its own.
  Clients(RunConfig config, size_t threads, client::ClientStateStore& states, LoadData load)
      : simulation_(std::in_place, std::move(config), threads, nullptr, std::vector<std::string>(),
                    SimulationHooks{.wrap = [this](round::Backend& backend) -> round::Backend& {
                                      found_ = dynamic_cast<sim::SimBackend*>(&backend);
                                      return backend;
                                    },
                                    .wrap_evaluator = [this](train::WorkersEvaluator& here)
                                        -> train::Evaluator& { return *(evaluator_ = &here); },
                                    .load = std::move(load)}),
        simulator_(*found_) {
    simulator_.remember_in(states);
  }

  size_t num_threads() const override { return simulator_.workers().size(); }
  void in_threads(const std::function<void(size_t worker)>& work) override {
    simulator_.workers().run(num_threads(), [&](size_t, size_t worker) { work(worker); });
  }
  wire::EncodedMessage answer(uint64_t client, const wire::EncodedMessage& task,
                              size_t worker) override {
    return simulator_.answer(client, task, worker);
  }
  wire::Update add(uint64_t client, const wire::EncodedMessage& update,
                   round::PartialSums& sums) override {
    return sums.add(client, static_cast<double>(simulator_.num_samples(client)),
                    evaluator_->layout(), update, simulator_.uplink());
  }
  void forget() override { simulator_.forget(); }
  const Simulation& simulation() const { return *simulation_; }

  void evaluate_by(train::WorkersEvaluator& evaluator) { evaluator_ = &evaluator; }
  std::shared_ptr<const ParameterLayout> layout(std::span<const int64_t> units) const override {
    const auto& whole = evaluator_->layout();
    return units.empty() ? whole : narrow_layout(*whole, units);
  }
  size_t num_batches() const override { return evaluator_->num_batches(); }
  uint64_t new_version() override { return simulator_.workers().new_version(); }
  train::EvalSums evaluate(const ParameterSet& model, uint64_t version, size_t batch,
                           size_t worker) override {
    return evaluator_->batch(model, version, batch, worker);
  }

 private:
  train::WorkersEvaluator* evaluator_ = nullptr;
  sim::SimBackend* found_ = nullptr;
  std::optional<Simulation> simulation_;
  sim::SimBackend& simulator_;
};

class RankRun::Evaluator final : public train::Evaluator {
 public:
  explicit Evaluator(mpi::RankBackend& ranks) : ranks_(ranks) {}
  train::EvalSums evaluate(const ParameterSet& model) override { return ranks_.evaluate(model); }

 private:
  mpi::RankBackend& ranks_;
};

RankRun::RankRun() = default;

RankRun::~RankRun() {
  const bool told = backend_ != nullptr;
  backend_.reset();
  if (first() && !told) mpi::send_setup(communicator_, "");  // over before it began
}

std::string RankRun::line(size_t threads) const {
  const auto here = static_cast<size_t>(communicator_.ranks_here());
  std::string line =
      concat(communicator_.size(), communicator_.size() == 1 ? " rank" : " ranks", ", ", here,
             " of them on this machine, ", threads, threads == 1 ? " thread" : " threads", " each");
  if (here * threads > communicator_.processors_here()) {
    line += concat("; note: ", here * threads, " threads share ", communicator_.processors_here(),
                   " processors, which fewer ranks or --threads would not");
  }
  return line;
}

namespace {

// What must be the same at all ranks besides the configuration, whose files are those of `config`.
Json foundation(const RunConfig& config, const data::DataSource& data) {
  Json files = Json::object();
  for (const InputFile& input : input_files(config))
    files[input.key] = sha256_hex(read_file(input.path));
  return {{"build", build_id()},
          {"instructions", nn::instructions()},
          {"data", describe_data(data)},
          {"files", files}};
}

}  // namespace

void RankRun::invite(const Simulation& simulation, const report::RunFolder& folder,
                     std::optional<size_t> threads) {
  // A run that goes on uses its own copies of files.
  RunConfig config;
  config.resolved = simulation.resolved();
  for (const InputFile& input : input_files(simulation.config())) {
    const auto copy = std::filesystem::absolute(folder.inputs_path() / input.key);
    if (std::filesystem::exists(copy))
      set_config_value(config.resolved, concat(input.key, "=", Json(copy.string()).dump()));
  }
  config.selection = simulation.config().selection;
  Json setup = {{"config", config.resolved}, {"foundation", foundation(config, simulation.data())}};
  if (threads) setup["threads"] = *threads;
  mpi::send_setup(communicator_, setup.dump());
}

data::DataSource RankRun::load(const RunConfig& config, std::filesystem::path* folder) {
  const bool first_here = communicator_.here().front() == communicator_.rank();
  if (!first_here) {
    const std::string text = mpi::receive_data(communicator_);
    if (text.empty()) fail("run", "the run is over");
    auto found = data::SharedData::open(Json::parse(text));
    if (found) return std::move(*found);
    return load_data(config, nullptr, folder);
  }
  if (communicator_.ranks_here() == 1) return load_data(config, nullptr, folder);
  try {
    auto source = load_data(config, nullptr, folder,
                            [this](data::Dataset& dataset) { shared_.place(dataset); });
    mpi::send_data(communicator_, shared_.describe(source).dump());
    return source;
  } catch (...) {
    mpi::send_data(communicator_, Json().dump());  // who waits finds out for itself
    throw;
  }
}

SimulationHooks RankRun::hooks() {
  return {.wrap = [this](round::Backend& simulator) -> round::Backend& { return wrap(simulator); },
          .wrap_evaluator = [this](train::WorkersEvaluator& here) -> train::Evaluator& {
            return wrap_evaluator(here);
          },
          .load = [this](const RunConfig& config,
                         std::filesystem::path* folder) { return load(config, folder); },
          .processes = static_cast<size_t>(communicator_.size()),
          .clients_at_a_time = [this] { return backend_->num_threads(); }};
}

round::Backend& RankRun::wrap(round::Backend& simulator) {
  auto* backend = dynamic_cast<sim::SimBackend*>(&simulator);
  ESPALIER_CHECK(backend != nullptr);
  clients_ = std::make_unique<Clients>(*backend);
  backend_ =
      std::make_unique<mpi::RankBackend>(communicator_, *clients_, backend->states(), *backend);
  return *backend_;
}

train::Evaluator& RankRun::wrap_evaluator(train::WorkersEvaluator& here) {
  ESPALIER_CHECK(clients_ != nullptr);
  clients_->evaluate_by(here);
  evaluator_ = std::make_unique<Evaluator>(*backend_);
  return *evaluator_;
}

void RankRun::work() {
  // Rank 0 decides when the run ends; a signal that a starter sends to all of them is its business.
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) std::signal(signal, SIG_IGN);
  const std::string text = mpi::receive_setup(communicator_);
  if (text.empty()) {
    mpi::leave(communicator_);
    return;
  }
  mpi::work(communicator_, [&](client::ClientStateStore& states) {
    const Json setup = Json::parse(text);
    const size_t threads =
        setup.contains("threads") ? setup.at("threads").get<size_t>() : threads_here();
    auto clients = std::make_unique<Clients>(
        read_run_config(setup.at("config")), threads, states,
        [this](const auto& config, auto* folder) { return load(config, folder); });
    const Json mine = foundation(clients->simulation().config(), clients->simulation().data()),
               &theirs = setup.at("foundation");
    for (const char* what : {"build", "instructions"}) {
      if (mine.at(what) != theirs.at(what))
        fail("run", "ranks differ in ", what, ": ", mine.at(what).get<std::string>(), " here, ",
             theirs.at(what).get<std::string>(), " at rank 0; all need the same");
    }
    for (const char* what : {"data", "files"}) {
      if (mine.at(what) != theirs.at(what))
        fail("run", "this rank and rank 0 differ in ", what, "; all need the same");
    }
    return clients;
  });
}

}  // namespace espalier::run
