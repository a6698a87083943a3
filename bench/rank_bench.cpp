// What handing out costs when a run is on many processes (docs/scaling.md), and how well work is
// spread.
//
//   mpirun -n 2 build/release/bin/rank_bench collectives [--values N]
//   mpirun -n 3 build/release/bin/rank_bench dispatch [--tasks N] [--bytes N] [--threads N]
//   build/release/bin/rank_bench replay CONFIG.toml [--clients N] [--workers N] [--task-us N]
//                                       [--gbit N]
//
// collectives: how long it takes to broadcast N float32 and to reduce N int64.
// dispatch: tasks per second that rank 0 hands out and takes answers of, when clients take no time
// and the other ranks stand for so many threads each.
// replay: one round of the configuration's clients is run here and timed; then the rule by which
// ranks get clients (mpi/dispatch.h) is played on a virtual clock with so many workers. Rank 0
// spends --task-us on each task, its link carries every message, what all clients share is
// broadcast first, E/B·⌈log2 K⌉, and parts of the sums are reduced at last, 16n·(K−1)/(K·B).
// Efficiency: all clients' time over workers × the round's time.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <queue>
#include <thread>

#include "bench/harness.h"
#include "espalier/base/clock.h"
#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/client/state_store.h"
#include "espalier/models/process.h"
#include "espalier/mpi/dispatch.h"
#include "espalier/mpi/ranks.h"
#include "espalier/run/simulation.h"
#include "espalier/sim/sim_backend.h"

namespace espalier::bench {
namespace {

constexpr const char* kUsage =
    "mpirun -n K rank_bench collectives [--values N], mpirun -n K rank_bench dispatch [--tasks N] "
    "[--bytes N] [--threads N], or rank_bench replay "
    "CONFIG.toml "
    "[--clients N] [--workers N] [--task-us N] [--gbit N]";

// ---- collectives

int collectives(size_t values) {
  mpi::Communicator communicator;
  std::vector<uint8_t> body(values * sizeof(float), 1);
  std::vector<int64_t> sums(values, communicator.rank());
  std::vector<double> broadcasts, reductions;
  for (int repeat = 0; repeat < 6; ++repeat) {
    int64_t together = 0;  // so that nobody is late
    communicator.reduce({&together, 1});
    const Stopwatch time;
    if (communicator.rank() == 0) {
      communicator.broadcast(body);
    } else {
      communicator.receive_broadcast(body);
    }
    communicator.reduce({&together, 1});  // rank 0 goes on when all have it
    if (repeat > 0) broadcasts.push_back(time.seconds());
    const Stopwatch reducing;
    communicator.reduce(sums);
    if (repeat > 0) reductions.push_back(reducing.seconds());
  }
  if (communicator.rank() != 0) return 0;
  const double floats = median(broadcasts), integers = median(reductions);
  std::printf(
      "%d ranks, %zu values: broadcast %.1f ms (%.2f GB/s), reduction %.1f ms (%.2f GB/s); "
      "medians of 5\n",
      communicator.size(), values, floats * 1e3,
      static_cast<double>(values * sizeof(float)) / floats / 1e9, integers * 1e3,
      static_cast<double>(values * sizeof(int64_t)) / integers / 1e9);
  return 0;
}

// ---- dispatch

wire::EncodedMessage message(size_t bytes) {
  wire::EncodedMessage out;
  out.head.assign(bytes, 1);
  return out;
}

// Clients that answer at once.
class InstantClients final : public mpi::LocalClients {
 public:
  InstantClients(size_t threads, size_t bytes) : threads_(threads), answer_(message(bytes)) {}
  size_t num_threads() const override { return threads_; }
  void in_threads(const std::function<void(size_t)>& work) override {
    if (threads_ > 0) work(0);  // one is enough for no work
  }
  wire::EncodedMessage answer(uint64_t, const wire::EncodedMessage&, size_t) override {
    return answer_;
  }
  wire::Update add(uint64_t, const wire::EncodedMessage&, round::PartialSums&) override {
    fail("bench", "nothing is summed here");
  }
  void forget() override {}
  std::shared_ptr<const ParameterLayout> layout(std::span<const int64_t>) const override {
    return std::make_shared<const ParameterLayout>(std::vector<ParameterInfo>{{"w", {1}}});
  }
  size_t num_batches() const override { return 0; }
  uint64_t new_version() override { return 0; }
  train::EvalSums evaluate(const ParameterSet&, uint64_t, size_t, size_t) override { return {}; }

 private:
  size_t threads_;
  wire::EncodedMessage answer_;
};

class NoStates final : public client::ClientStateStore {
 public:
  std::shared_ptr<const client::ClientState> get(uint64_t, uint32_t) override {
    fail("bench", "nobody remembers here");
  }
  void put(uint64_t, uint32_t, uint32_t, client::ClientState) override {}
};

class Counting final : public round::RoundTraffic {
 public:
  explicit Counting(size_t bytes) : task_(message(bytes)) {}
  round::ExchangeId id() const override { return {1, 0, wire::TaskKind::kTrain}; }
  wire::EncodedMessage task(uint64_t) override { return task_; }
  round::Receipt delivered(uint64_t, const wire::EncodedMessage&) override {
    ++answers;
    return round::Receipt::kCounted;
  }
  void failed(uint64_t client, const std::string& reason) override {
    fail("bench", "client ", client, ": ", reason);
  }
  uint64_t answers = 0;

 private:
  wire::EncodedMessage task_;
};

class Crowd final : public round::Backend {
 public:
  explicit Crowd(uint64_t clients) : clients_(clients) {}
  uint64_t num_clients() const override { return clients_; }
  uint64_t num_samples(uint64_t) const override { return 1; }
  void run(std::span<const uint64_t>, round::RoundTraffic&) override {}

 private:
  uint64_t clients_;
};

int dispatch(uint64_t tasks, size_t bytes, size_t threads) {
  mpi::Communicator communicator;
  if (communicator.size() < 2) fail("bench", "rank 0 hands out to others; ", kUsage);
  if (communicator.rank() != 0) {
    mpi::work(communicator, [&](client::ClientStateStore&) {
      return std::make_unique<InstantClients>(threads, bytes);
    });
    return 0;
  }
  InstantClients none(0, bytes);  // rank 0 trains nobody, or there would be little to hand out
  NoStates states;
  Crowd crowd(tasks);
  std::vector<uint64_t> clients(tasks);
  for (uint64_t i = 0; i < tasks; ++i) clients[i] = i;
  std::vector<double> rates;
  {
    mpi::RankBackend backend(communicator, none, states, crowd);
    for (int repeat = 0; repeat < 4; ++repeat) {
      Counting traffic(bytes);
      const Stopwatch time;
      backend.run(clients, traffic);
      if (traffic.answers != tasks) fail("bench", "answers are missing");
      if (repeat > 0) rates.push_back(static_cast<double>(tasks) / time.seconds());
    }
  }
  std::printf(
      "%d ranks of %zu threads, %llu tasks and answers of %zu bytes: %.0f tasks per second (median "
      "of 3), "
      "%.1f us each\n",
      communicator.size(), threads, static_cast<unsigned long long>(tasks), bytes, median(rates),
      1e6 / median(rates));
  return 0;
}

// ---- replay

struct Measured {
  std::map<uint64_t, double> seconds, samples;
  double task_bytes = 0, update_bytes = 0;  // of one client; what all share apart
  double shared_bytes = 0, values = 0;      // what all share, and values of the model
};

// Runs clients as the simulator does, and times them.
class Timing final : public round::Backend {
 public:
  explicit Timing(sim::SimBackend& inner) : inner_(inner) {}
  uint64_t num_clients() const override { return inner_.num_clients(); }
  uint64_t num_samples(uint64_t client) const override { return inner_.num_samples(client); }
  void run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) override {
    if (!clients.empty())  // what happens only once is not a client's time
      static_cast<void>(inner_.answer(clients[0], traffic.task(clients[0]), 0));
    for (const uint64_t client : clients) {
      const wire::EncodedMessage task = traffic.task(client);
      const Stopwatch time;
      const wire::EncodedMessage update = inner_.answer(client, task, 0);
      measured.seconds[client] = time.seconds();
      measured.samples[client] = static_cast<double>(num_samples(client));
      measured.task_bytes = static_cast<double>(task.shared ? task.head.size() : task.size_bytes());
      measured.shared_bytes = static_cast<double>(task.size_bytes()) - measured.task_bytes;
      measured.update_bytes = static_cast<double>(update.size_bytes());
      traffic.delivered(client, update);
      if (clients.size() > 100 && measured.seconds.size() % 50 == 0)
        std::fprintf(stderr, "\r%zu of %zu clients timed", measured.seconds.size(), clients.size());
    }
    inner_.forget();
  }
  Measured measured;

 private:
  sim::SimBackend& inner_;
};

// Seconds of a round on the virtual clock. Worker 0 is rank 0's own thread.
double play(const Measured& measured, size_t workers, double task_seconds, double bytes_per_second,
            bool summed) {
  std::vector<uint64_t> clients;
  for (const auto& [client, seconds] : measured.seconds) clients.push_back(client);
  mpi::Dispatch dispatch(
      clients, [&](uint64_t client) { return static_cast<uint64_t>(measured.samples.at(client)); },
      std::vector<size_t>(workers, 1));
  struct Event {
    double at;
    size_t worker;
    bool answer;  // an answer has come to rank 0; else a worker is free or has got a task
    uint64_t client;
    bool operator<(const Event& other) const { return at > other.at; }
  };
  std::priority_queue<Event> events;
  std::vector<double> free_at(workers, 0);
  const auto ranks = static_cast<double>(workers);
  const double broadcast = measured.shared_bytes / bytes_per_second * std::ceil(std::log2(ranks)),
               reduction =
                   summed ? 16 * measured.values * (ranks - 1) / (ranks * bytes_per_second) : 0;
  double rank0 = broadcast, end = 0;  // when rank 0's talking thread is free
  const double out = task_seconds / 2 + measured.task_bytes / bytes_per_second,
               in = task_seconds / 2 + (summed ? 200 : measured.update_bytes) / bytes_per_second;
  const auto give = [&](double now) {
    for (size_t worker = 1; worker < workers; ++worker) {
      while (const auto client = dispatch.next_for(worker)) {
        rank0 = std::max(rank0, now) + out;
        free_at[worker] = std::max(free_at[worker], rank0) + measured.seconds.at(*client);
        events.push({free_at[worker], worker, true, *client});
      }
    }
  };
  const auto own = [&](double now) {
    if (const auto client = dispatch.next())
      events.push({now + measured.seconds.at(*client), 0, false, *client});
  };
  own(0);
  give(0);
  while (!events.empty()) {
    const Event event = events.top();
    events.pop();
    end = std::max(end, event.at);
    if (!event.answer) {
      own(event.at);
      continue;
    }
    rank0 = std::max(rank0, event.at) + in;
    end = std::max(end, rank0);
    dispatch.answered(event.worker);
    give(rank0);
  }
  return end + reduction;
}

int replay(const std::string& config, int64_t clients, size_t workers, double task_us,
           double gbit) {
  Json tree = read_toml_file(config);
  for (const std::string& assignment : {"strategy.clients_per_round=" + std::to_string(clients),
                                        std::string("rounds=1"), std::string("eval_every=0")})
    set_config_value(tree, assignment);
  models::configure_process();
  std::optional<Timing> timing;
  run::SimulationHooks hooks;
  hooks.wrap = [&](round::Backend& simulator) -> round::Backend& {
    return timing.emplace(dynamic_cast<sim::SimBackend&>(simulator));
  };
  run::Simulation simulation(run::read_run_config(tree), 1, nullptr, {}, std::move(hooks));
  simulation.step();
  std::fprintf(stderr, "\n");
  Measured& measured = timing->measured;
  measured.values = static_cast<double>(simulation.loop().global().size());
  double total = 0, longest = 0;
  for (const auto& [client, seconds] : measured.seconds) {
    total += seconds;
    longest = std::max(longest, seconds);
  }
  const double bytes_per_second = gbit * 1e9 / 8;
  std::printf("%zu clients, %.2f s in all, longest %.3f s, updates of %.0f KB\n",
              measured.seconds.size(), total, longest, measured.update_bytes / 1e3);
  for (const bool summed : {false, true}) {
    const double seconds = play(measured, workers, task_us * 1e-6, bytes_per_second, summed);
    std::printf("%zu workers, %s: %.3f s, efficiency %.1f %%\n", workers,
                summed ? "sums in the ranks" : "updates to rank 0", seconds,
                100 * total / (seconds * static_cast<double>(workers)));
  }
  return 0;
}

int run_main(Arguments& arguments) {
  const int64_t tasks = arguments.number("--tasks", 20000),
                bytes = arguments.number("--bytes", 200);
  const int64_t clients = arguments.number("--clients", 1000),
                workers = arguments.number("--workers", 64),
                task_us = arguments.number("--task-us", 50), gbit = arguments.number("--gbit", 10);
  const int64_t threads = arguments.number("--threads", 8);
  const std::vector<std::string> what = arguments.positional();
  const int64_t values = arguments.number("--values", 1663370);
  arguments.finish(kUsage);
  if (what == std::vector<std::string>{"collectives"})
    return collectives(static_cast<size_t>(values));
  if (what == std::vector<std::string>{"dispatch"})
    return dispatch(static_cast<uint64_t>(tasks), static_cast<size_t>(bytes),
                    static_cast<size_t>(threads));
  if (what.size() == 2 && what[0] == "replay") {
    return replay(what[1], clients, static_cast<size_t>(workers), static_cast<double>(task_us),
                  static_cast<double>(gbit));
  }
  fail("bench", kUsage);
}

}  // namespace
}  // namespace espalier::bench

int main(int argc, char** argv) {
  espalier::bench::Arguments arguments(argc, argv);
  try {
    return espalier::bench::run_main(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
