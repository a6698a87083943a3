#include "espalier/study/rank_places.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <thread>
#include <type_traits>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/version.h"

namespace espalier::study {

namespace fs = std::filesystem;

namespace {

// The first byte of a message. Values apart from those of a simulation's ranks (mpi/), so that a
// rank which was started with another command is found out.
enum class Say : uint8_t {
  // Rank 0 to the others.
  kOpen = 101,  // strings: build, working folder, path of the sign, its text
  kStart,       // u64 cell; strings: config, folder, log
  kStop,        // those that run end after their round
  kOver,
  // The others to rank 0.
  kReady,   // u64 jobs, u64 threads of each, u64 processors of the machine, string host
  kEnded,   // u64 cell, u64 status, string error
  kBroken,  // strings: host, why this rank cannot go on
};

void put(ByteWriter& out, const std::string& text) { out.string(text); }
template <class T>
requires std::is_integral_v<T>
void put(ByteWriter& out, T number) { out.put(static_cast<uint64_t>(number)); }

template <class... Parts>
Bytes message(Say what, const Parts&... parts) {
  Bytes out;
  ByteWriter writer(out);
  writer.put(static_cast<uint8_t>(what));
  (put(writer, parts), ...);
  return out;
}
size_t number_in(ByteReader& in) { return static_cast<size_t>(in.get<uint64_t>()); }

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "?";
}

// Runs take seconds: nobody needs to hear of their end within less, and the processors are theirs.
void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(10)); }

mpi::Message await(mpi::Communicator& communicator) {
  while (true) {
    if (auto message = communicator.receive()) return std::move(*message);
    pause();
  }
}

Say what_of(ByteReader& in) { return static_cast<Say>(in.get<uint8_t>()); }

[[noreturn]] void unknown(int rank) {
  fail("study", "rank ", rank,
       " said something unknown; start all ranks with the same espalier and the same command");
}

// What a network's file system has cached may be some seconds old.
bool sees(const fs::path& path, const std::string& text) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (true) {
    try {
      if (read_text_file(path) == text) return true;
    } catch (const Error&) {
    }
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

// Why this rank cannot take part; empty: it can.
std::string obstacle(ByteReader& in, int rank) {
  const std::string build = in.string(), working_folder = in.string(), sign = in.string(),
                    text = in.string();
  if (build != build_id()) return "has another build than rank 0; install the same everywhere";
  // Paths in a configuration may be relative.
  std::error_code error;
  fs::current_path(working_folder, error);
  if (error) {
    return concat("cannot enter ", working_folder, ", where rank 0 was started (", error.message(),
                  "); start mpirun in a folder that all machines have");
  }
  const fs::path study = fs::path(sign).parent_path().parent_path();
  if (!sees(sign, text)) {
    return concat("does not see the study's folder ", study.string(),
                  " that rank 0 writes; choose an --out on a file system that all machines share");
  }
  try {
    const fs::path mine = concat(sign, ".rank-", rank);
    write_text_file_atomic(mine, text);
    fs::remove(mine, error);
  } catch (const Error& failure) {
    return concat("cannot write into the study's folder ", study.string(), ": ", failure.what());
  }
  return "";
}

PlaceOptions with_share(PlaceOptions options, const mpi::Communicator& communicator) {
  if (options.threads == 0) options.threads = communicator.share_of_processors();
  return options;
}

}  // namespace

RankPlaces::RankPlaces(PlaceOptions here)
    : local_(with_share(std::move(here), communicator_)), ranks_(num_ranks()) {
  for (Rank& rank : ranks_) rank.jobs = local_.jobs();
  if (first()) return;
  // Rank 0 decides when the study ends; a signal that a starter sends to all is its business.
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) std::signal(signal, SIG_IGN);
}

RankPlaces::~RankPlaces() {
  if (!first()) return;
  for (int rank = 1; rank < communicator_.size(); ++rank)
    communicator_.send(rank, message(Say::kOver));
}

void RankPlaces::work() {
  try {
    serve();
  } catch (const std::exception& error) {
    communicator_.send(0, message(Say::kBroken, host_name(), std::string(error.what())));
    // What rank 0 has sent before it heard of this comes to nothing.
    while (static_cast<Say>(await(communicator_).bytes.at(0)) != Say::kOver) {
    }
  }
}

void RankPlaces::serve() {
  while (true) {
    bool idle = true;
    for (const Ended& end : local_.ended()) {
      idle = false;
      communicator_.send(0, message(Say::kEnded, end.cell, end.status, end.error));
    }
    if (const auto received = communicator_.receive()) {
      idle = false;
      ByteReader in(received->bytes, "study");
      switch (what_of(in)) {
        case Say::kOpen: {
          const std::string why = obstacle(in, communicator_.rank());
          if (!why.empty()) throw Error(why);
          communicator_.send(0, message(Say::kReady, local_.jobs(), local_.options().threads_each(),
                                        communicator_.processors_here(), host_name()));
          break;
        }
        case Say::kStart: {
          Job job;
          job.cell = number_in(in);
          job.config = in.string();
          job.folder = in.string();
          job.log = in.string();
          static_cast<void>(local_.start(job));
          break;
        }
        case Say::kStop:
          local_.stop();
          break;
        case Say::kOver:
          return;
        default:
          unknown(received->from);
      }
    }
    if (idle) pause();
  }
}

void RankPlaces::open(const StudyFolder& folder, const Shard& shard) {
  const fs::path sign = folder.sign(shard);
  // Nobody else's folder of the same name has this.
  const std::string text =
      concat(host_name(), " ", ::getpid(), " ",
             std::chrono::system_clock::now().time_since_epoch().count(), "\n");
  write_text_file_atomic(sign, text);
  for (int rank = 1; rank < communicator_.size(); ++rank)
    communicator_.send(rank, message(Say::kOpen, std::string(build_id()),
                                     fs::current_path().string(), sign.string(), text));
  ranks_[0] = {.jobs = local_.jobs(),
               .threads_each = local_.options().threads_each(),
               .host = host_name(),
               .processors = communicator_.processors_here()};
  std::string broken;
  for (int waiting = communicator_.size() - 1; waiting > 0; --waiting) {
    const mpi::Message received = await(communicator_);
    ByteReader in(received.bytes, "study");
    const Say what = what_of(in);
    if (what == Say::kBroken) {
      const std::string host = in.string();
      if (broken.empty()) broken = concat("rank ", received.from, " on ", host, " ", in.string());
      continue;
    }
    if (what != Say::kReady) unknown(received.from);
    Rank& rank = ranks_[static_cast<size_t>(received.from)];
    rank.jobs = number_in(in);
    rank.threads_each = number_in(in);
    rank.processors = number_in(in);
    rank.host = in.string();
    many_hosts_ = many_hosts_ || rank.host != ranks_[0].host;
  }
  std::error_code ignored;
  fs::remove(sign, ignored);
  if (!broken.empty()) fail("study", broken);
}

std::string RankPlaces::line() const {
  struct Machine {
    size_t threads = 0, processors = 0;
  };
  std::map<std::string, Machine> machines;
  size_t least = ranks_[0].threads_each, most = least;
  for (const Rank& rank : ranks_) {
    Machine& machine = machines[rank.host];
    machine.threads += rank.jobs * rank.threads_each;
    machine.processors = std::max(machine.processors, rank.processors);
    least = std::min(least, rank.threads_each);
    most = std::max(most, rank.threads_each);
  }
  const auto count = [](size_t number, const char* what) {
    return concat(number, " ", what, number == 1 ? "" : "s");
  };
  std::string line =
      concat(count(ranks_.size(), "rank"), " on ", count(machines.size(), "machine"), ", ",
             count(jobs(), "run"), " at a time, with ", least == most ? "" : concat(least, " to "),
             count(most, "thread"), jobs() == 1 ? "" : " each");
  for (const auto& [host, machine] : machines) {
    if (machine.threads <= machine.processors) continue;
    line += concat("; note: ", machine.threads, " threads share ",
                   count(machine.processors, "processor"), many_hosts_ ? concat(" of ", host) : "",
                   ", which fewer ranks, --jobs or --threads would not");
    break;
  }
  return line;
}

size_t RankPlaces::jobs() const {
  size_t sum = 0;
  for (const Rank& rank : ranks_) sum += rank.jobs;
  return sum;
}

std::string RankPlaces::start(const Job& job) {
  // The one with the fewest that has room: cells side by side at one rank share its threads.
  size_t at = ranks_.size();
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (ranks_[r].running < ranks_[r].jobs &&
        (at == ranks_.size() || ranks_[r].running < ranks_[at].running))
      at = r;
  }
  ESPALIER_CHECK(at < ranks_.size());
  ++ranks_[at].running;
  running_[job.cell] = {at, job.folder};
  if (at == 0) {
    static_cast<void>(local_.start(job));
  } else {
    communicator_.send(static_cast<int>(at), message(Say::kStart, job.cell, job.config.string(),
                                                     job.folder.string(), job.log.string()));
  }
  return many_hosts_ ? concat("on ", ranks_[at].host) : "";
}

std::vector<Ended> RankPlaces::ended() {
  std::vector<Ended> ended = local_.ended();
  while (const auto received = communicator_.receive()) {
    ByteReader in(received->bytes, "study");
    const Say what = what_of(in);
    if (what == Say::kBroken) {
      const std::string host = in.string();
      fail("study", "rank ", received->from, " on ", host, ": ", in.string());
    }
    if (what != Say::kEnded) unknown(received->from);
    Ended end;
    end.cell = number_in(in);
    end.status = static_cast<int>(number_in(in));
    end.error = in.string();
    ended.push_back(std::move(end));
  }
  for (const Ended& end : ended) {
    const auto found = running_.find(end.cell);
    ESPALIER_CHECK(found != running_.end());
    --ranks_[found->second.rank].running;
    // What another machine wrote: NFS asks anew what is in a folder when it is opened.
    std::error_code ignored;
    if (many_hosts_) static_cast<void>(fs::directory_iterator(found->second.folder, ignored));
    running_.erase(found);
  }
  return ended;
}

void RankPlaces::stop() {
  local_.stop();
  for (int rank = 1; rank < communicator_.size(); ++rank)
    communicator_.send(rank, message(Say::kStop));
}

}  // namespace espalier::study
