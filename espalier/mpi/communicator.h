#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"

// Messages between the processes (ranks) of one MPI job.
namespace espalier::mpi {

// Whether this process was started as a rank: by mpirun, srun or another starter. ESPALIER_MPI=0 in
// the environment says no: for programs that are no part of the job which they were started in.
// Throws Error when a starter has made several processes that MPI knows nothing of.
bool launched();
// How many processes the starter says there are.
int launched_size();

// A message as bytes; the first says what it is (ranks.h).
struct Message {
  int from = 0;
  Bytes bytes;
};

// Sending never waits, so that two ranks may send to each other; what is on its way is kept here
// until it has gone. Messages from one rank to another arrive in their order, of whatever length.
// To be used by the thread that made it alone (MPI_THREAD_FUNNELED).
class Communicator {
 public:
  // Once per process. Throws Error when MPI cannot be started.
  Communicator();
  // Waits for what is on its way, not long, and for the other ranks to come as far.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Ranks on this machine, this one among them; the processors that they may use together; and this
  // one's share of them: those that it may use, divided by the ranks that may use one of these.
  int ranks_here() const { return static_cast<int>(here_.size()); }
  const std::vector<int>& here() const { return here_; }  // ascending
  size_t processors_here() const { return processors_here_; }
  size_t share_of_processors() const { return share_; }

  void send(int to, Bytes bytes);
  // Whether something is on its way still: it goes on with every call, so call soon.
  bool sending() const { return !outgoing_.empty(); }
  // What has come, if anything.
  std::optional<Message> receive();
  // To be received again, before what comes later.
  void put_back(Message message) { put_back_.push_back(std::move(message)); }
  // Waits without keeping the processor busy: MPI's own waiting would take it from a rank that
  // trains.
  Message wait();
  // ---- with all ranks: each calls these in the same order, rank 0 having said which comes next.
  // They return when this rank's part is done; meanwhile messages wait.
  // Rank 0's bytes become everybody's: rank 0 calls the first, the others the second.
  void broadcast(std::span<const uint8_t> bytes);
  void receive_broadcast(std::span<uint8_t> bytes);
  // At rank 0: the sum over all ranks, in place.
  void reduce(std::span<int64_t> values);

  // Ends all ranks at once, with this exit status: when one cannot go on and the others wait.
  [[noreturn]] void abort(int status);

 private:
  struct Outgoing;
  void progress();
  void broadcast(void* bytes, size_t count);

  int rank_ = 0, size_ = 1;
  std::vector<int> here_;
  size_t processors_here_ = 1, share_ = 1;
  std::list<Outgoing> outgoing_;
  std::deque<Message> put_back_;
  std::map<int, Bytes> incoming_;  // the parts of long messages that have come
};

// Sleeps that grow while nothing happens, to 200 µs; short ones while something is on its way.
class Patience {
 public:
  void wait(bool sending = false);
  void reset() { microseconds_ = 10; }

 private:
  unsigned microseconds_ = 10;
};

}  // namespace espalier::mpi
