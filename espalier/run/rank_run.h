#pragma once

#include <memory>
#include <optional>

#include "espalier/data/shared_data.h"
#include "espalier/mpi/communicator.h"
#include "espalier/mpi/ranks.h"
#include "espalier/run/simulation.h"

namespace espalier::run {

// A simulation on the ranks of an MPI job (mpi/ranks.h). Rank 0 makes an ordinary Simulation with
// wrap(), whose round loop, folder and evaluations are its own; the others train clients.
class RankRun {
 public:
  // Joins the job. Once per process, by its main thread.
  RankRun();
  ~RankRun();

  bool first() const { return communicator_.rank() == 0; }
  // A rank's threads by default: its share of the processors that it may use.
  size_t threads_here() const { return communicator_.share_of_processors(); }
  // How the run is spread, for a person; says so when a machine's ranks have more threads than it
  // has processors.
  std::string line(size_t threads) const;

  // Rank 0: what its simulation does for all ranks: it shares out its clients and test batches, and
  // the data that it loads with the ranks of its machine.
  SimulationHooks hooks();
  // Rank 0, before the first round: the other ranks make their clients as this simulation has them,
  // with so many threads each, and refuse when their build, data or files are others. What goes
  // wrong there is thrown by the first round.
  void invite(const Simulation& simulation, const report::RunFolder& folder,
              std::optional<size_t> threads);

  // The others: trains clients until rank 0 says that the run is over.
  void work();

 private:
  class Clients;
  class Evaluator;
  round::Backend& wrap(round::Backend& simulator);
  train::Evaluator& wrap_evaluator(train::WorkersEvaluator& here);
  // The data, for this rank and those of its machine.
  data::DataSource load(const RunConfig& config, std::filesystem::path* folder);
  mpi::Communicator communicator_;
  data::SharedData shared_;
  std::unique_ptr<Clients> clients_;
  std::unique_ptr<mpi::RankBackend> backend_;
  std::unique_ptr<train::Evaluator> evaluator_;
};

}  // namespace espalier::run
