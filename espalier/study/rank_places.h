#pragma once

#include <map>
#include <string>
#include <vector>

#include "espalier/mpi/communicator.h"
#include "espalier/study/places.h"
#include "espalier/study/study_folder.h"

// Only with ESPALIER_MPI.
namespace espalier::study {

// The ranks of an MPI job as places: rank 0 has the study, its folder, table and page, and runs
// cells too; the others start what it says, as children of theirs, and tell how they ended. Cells
// are ordinary processes that know nothing of MPI and write into the study's folder, which all
// ranks must see. Ranks that end take their children with them.
class RankPlaces final : public Places {
 public:
  // Joins the job. Once per process, by its main thread. `here`: of this rank, which may differ
  // from rank to rank; threads 0: its share of the processors that it may use.
  explicit RankPlaces(PlaceOptions here);
  // Rank 0: the others end, and what still runs there.
  ~RankPlaces() override;

  bool first() const { return communicator_.rank() == 0; }
  size_t num_ranks() const { return static_cast<size_t>(communicator_.size()); }

  // The others: runs cells until rank 0 says that the study is over.
  void work();

  // What follows is rank 0's.

  // Before the first cell. Throws Error that names the rank when one has another build, or does not
  // see the study's folder or the one that this process works in.
  void open(const StudyFolder& folder, const Shard& shard);
  // How the study is spread, for a person; says so when a machine has more threads than processors.
  // After open().
  std::string line() const;

  // Before open(): as if all ranks had as many as this one.
  size_t jobs() const override;
  std::string start(const Job& job) override;
  // Throws Error when a rank cannot go on.
  std::vector<Ended> ended() override;
  void stop() override;

 private:
  struct Rank {
    size_t jobs = 1, threads_each = 1;
    std::string host;
    size_t processors = 1;  // of its machine
    size_t running = 0;
  };
  struct Running {
    size_t rank;
    std::filesystem::path folder;
  };
  void serve();

  mpi::Communicator communicator_;
  LocalPlaces local_;
  std::vector<Rank> ranks_;
  bool many_hosts_ = false;
  std::map<size_t, Running> running_;  // by cell
};

}  // namespace espalier::study
