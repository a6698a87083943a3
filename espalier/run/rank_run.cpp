#include "espalier/run/rank_run.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/thread_pool.h"

namespace espalier::run {

// The simulator's clients, trained by its threads.
class RankRun::Clients final : public mpi::LocalClients {
 public:
  explicit Clients(sim::SimBackend& simulator) : simulator_(simulator) {}
  // With a simulation of its own.
  Clients(RunConfig config, size_t threads, client::ClientStateStore& states)
      : simulation_(
            std::in_place, std::move(config), threads, nullptr, std::vector<std::string>(),
            [this](round::Backend& backend) -> round::Backend& {
              found_ = dynamic_cast<sim::SimBackend*>(&backend);
              return backend;
            },
            [this](train::WorkersEvaluator& here) -> train::Evaluator& {
              return *(evaluator_ = &here);
            }),
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
  void forget() override { simulator_.forget(); }

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
  backend_.reset();
  if (!first() || invited_) return;
  mpi::send_setup(communicator_, "");  // over before it began
}

size_t RankRun::threads_here(size_t processors) const {
  return std::max<size_t>(1, processors / static_cast<size_t>(communicator_.ranks_here()));
}

std::string RankRun::line(size_t threads, size_t processors) const {
  const auto here = static_cast<size_t>(communicator_.ranks_here());
  std::string line =
      concat(communicator_.size(), communicator_.size() == 1 ? " rank" : " ranks", ", ", here,
             " of them on this machine, ", threads, threads == 1 ? " thread" : " threads", " each");
  if (here * threads > processors)
    line += concat("; note: ", here * threads, " threads share ", processors,
                   " processors, which fewer ranks or --threads would not");
  return line;
}

void RankRun::invite(const Json& resolved, std::optional<size_t> threads) {
  invited_ = true;
  Json setup = {{"config", resolved}};
  if (threads) setup["threads"] = *threads;
  mpi::send_setup(communicator_, setup.dump());
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
  const std::string text = mpi::receive_setup(communicator_);
  if (text.empty()) return;
  const Json setup = Json::parse(text);
  mpi::work(communicator_, [&](client::ClientStateStore& states) {
    const size_t threads = setup.contains("threads") ? setup.at("threads").get<size_t>()
                                                     : threads_here(available_processors());
    return std::make_unique<Clients>(read_run_config(setup.at("config")), threads, states);
  });
}

}  // namespace espalier::run
