#include "espalier/mpi/communicator.h"

#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <vector>

#include "espalier/base/error.h"

namespace espalier::mpi {

namespace {

// MPI counts in int. A message is sent in parts of this size, of which the last is shorter (or
// empty).
constexpr size_t kPart = size_t{1} << 28;
constexpr int kTag = 1;

}  // namespace

struct Communicator::Outgoing {
  std::shared_ptr<const Bytes> bytes;
  MPI_Request request = MPI_REQUEST_NULL;
};

namespace {

int number_in(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

}  // namespace

int launched_size() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const int size = number_in(name); size > 0) return size;
  return 1;
}

bool launched() {
  const char* wanted = std::getenv("ESPALIER_MPI");
  if (wanted != nullptr && std::string_view(wanted) == "0") return false;
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"})
    if (std::getenv(name) != nullptr) return true;
  if (number_in("SLURM_STEP_NUM_TASKS") > 1 && std::getenv("SLURM_PROCID") != nullptr)
    fail("mpi", "srun has started ", launched_size(),
         " processes that MPI knows nothing of; say srun --mpi=pmix, or set ESPALIER_MPI=0 for "
         "separate runs");
  return false;
}

Communicator::Communicator() {
  // Short sleeps (Patience) are to be short: by default they take 50 µs more.
  ::prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS ||
      provided < MPI_THREAD_FUNNELED) {
    fail("mpi", "MPI cannot be started with threads");
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  if (size_ != launched_size()) {
    const int size = size_;
    MPI_Finalize();
    fail("mpi", "started as one of ", launched_size(), " processes, but MPI has ", size,
         ": another MPI's starter; use the mpirun of the Open MPI that espalier was built with, or "
         "srun --mpi=pmix");
  }
  MPI_Comm here = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &here);
  int ranks_here = 1;
  MPI_Comm_size(here, &ranks_here);
  here_.resize(static_cast<size_t>(ranks_here));
  MPI_Allgather(&rank_, 1, MPI_INT, here_.data(), 1, MPI_INT, here);
  cpu_set_t mine;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof(mine), &mine);
  std::vector<cpu_set_t> masks(here_.size());
  MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, masks.data(), sizeof(mine), MPI_BYTE, here);
  MPI_Comm_free(&here);
  cpu_set_t all;
  CPU_ZERO(&all);
  size_t sharing = 0;
  for (const cpu_set_t& mask : masks) {
    CPU_OR(&all, &all, &mask);
    cpu_set_t both;
    CPU_AND(&both, &mask, &mine);
    if (CPU_COUNT(&both) > 0) ++sharing;
  }
  processors_here_ = static_cast<size_t>(std::max(1, CPU_COUNT(&all)));
  share_ =
      std::max<size_t>(1, static_cast<size_t>(CPU_COUNT(&mine)) / std::max<size_t>(1, sharing));
}

Communicator::~Communicator() {
  // Who does not take what is sent for so long is gone or stuck.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  Patience patience;
  while (!outgoing_.empty() && std::chrono::steady_clock::now() < until) {
    static_cast<void>(receive());
    patience.wait();
  }
  if (!outgoing_.empty()) MPI_Abort(MPI_COMM_WORLD, 1);
  MPI_Finalize();
}

void Communicator::send(int to, Bytes bytes) {
  progress();
  const auto shared = std::make_shared<const Bytes>(std::move(bytes));
  for (size_t begin = 0;; begin += kPart) {
    const size_t count = std::min(kPart, shared->size() - begin);
    Outgoing& part = outgoing_.emplace_back();
    part.bytes = shared;
    MPI_Isend(shared->data() + begin, static_cast<int>(count), MPI_BYTE, to, kTag, MPI_COMM_WORLD,
              &part.request);
    if (count < kPart) return;
  }
}

void Communicator::progress() {
  std::erase_if(outgoing_, [](Outgoing& part) {
    int done = 0;
    MPI_Test(&part.request, &done, MPI_STATUS_IGNORE);
    return done != 0;
  });
}

std::optional<Message> Communicator::receive() {
  progress();
  if (!put_back_.empty()) {
    Message message = std::move(put_back_.front());
    put_back_.pop_front();
    return message;
  }
  while (true) {
    int there = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, kTag, MPI_COMM_WORLD, &there, &status);
    if (there == 0) return std::nullopt;
    int count = 0;
    MPI_Get_count(&status, MPI_BYTE, &count);
    Bytes& bytes = incoming_[status.MPI_SOURCE];
    const size_t before = bytes.size();
    bytes.resize(before + static_cast<size_t>(count));
    MPI_Recv(bytes.data() + before, count, MPI_BYTE, status.MPI_SOURCE, kTag, MPI_COMM_WORLD,
             MPI_STATUS_IGNORE);
    if (static_cast<size_t>(count) < kPart) {
      Message message{status.MPI_SOURCE, std::move(bytes)};
      incoming_.erase(status.MPI_SOURCE);
      return message;
    }
  }
}

Message Communicator::wait() {
  Patience patience;
  while (true) {
    if (auto message = receive()) return std::move(*message);
    patience.wait();
  }
}

namespace {

// Collective operations go on with every look at them, and all ranks are there within a moment: so
// for a while this looks without sleeping, and lets others run in between. Who comes late is waited
// for as everything else is; MPI's own waiting would keep the processor busy.
void finish(std::span<MPI_Request> requests) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
  Patience patience;
  while (true) {
    int done = 0;
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (done != 0) return;
    if (std::chrono::steady_clock::now() < until) {
      std::this_thread::yield();
    } else {
      patience.wait();
    }
  }
}

}  // namespace

void Communicator::broadcast(void* bytes, size_t count) {
  for (size_t begin = 0; begin < count; begin += kPart) {
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ibcast(static_cast<uint8_t*>(bytes) + begin,
               static_cast<int>(std::min(kPart, count - begin)), MPI_BYTE, 0, MPI_COMM_WORLD,
               &request);
    finish({&request, 1});
  }
}

void Communicator::broadcast(std::span<const uint8_t> bytes) {
  // MPI's one function for both sides wants what it may write to; at rank 0 it only reads.
  broadcast(const_cast<uint8_t*>(bytes.data()), bytes.size());
}

void Communicator::receive_broadcast(std::span<uint8_t> bytes) {
  broadcast(bytes.data(), bytes.size());
}

void Communicator::reduce(std::span<int64_t> values) {
  // One large reduction goes on a little with each look at it; many small ones under way are 5 to
  // 30 times as fast over shared memory (Open MPI 4.1).
  constexpr size_t kPiece = 4096, kUnderWay = 64;
  for (size_t begin = 0; begin < values.size(); begin += kPiece * kUnderWay) {
    std::vector<MPI_Request> requests;
    const auto window = values.subspan(begin, std::min(kPiece * kUnderWay, values.size() - begin));
    for (size_t at = 0; at < window.size(); at += kPiece) {
      const auto piece = window.subspan(at, std::min(kPiece, window.size() - at));
      requests.push_back(MPI_REQUEST_NULL);
      MPI_Ireduce(rank_ == 0 ? MPI_IN_PLACE : piece.data(), rank_ == 0 ? piece.data() : nullptr,
                  static_cast<int>(piece.size()), MPI_INT64_T, MPI_SUM, 0, MPI_COMM_WORLD,
                  &requests.back());
    }
    finish(requests);
  }
}

void Communicator::abort(int status) {
  MPI_Abort(MPI_COMM_WORLD, status);
  std::abort();  // MPI_Abort does not return
}

void Patience::wait(bool sending) {
  if (sending) reset();
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds_));
  microseconds_ = std::min(microseconds_ * 2, 200U);
}

}  // namespace espalier::mpi
