// What the simulator costs, as tables: overhead against a bare libtorch loop, small clients per
// second, a population of a million, and scaling with threads. Every figure is taken in a process
// of its own, so that peak memory is that of one case, and cases of one table run in turn, so that
// a drifting machine does not favor one of them.
//
//   build/release/bin/simulation_bench [overhead|small-clients|population|scaling]… [--repeats N]
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "bench/bare_torch.h"
#include "bench/harness.h"
#include "espalier/base/clock.h"
#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/models/process.h"
#include "espalier/run/simulation.h"
#include "espalier/train/trainer.h"

namespace espalier::bench {
namespace {

struct Result {
  double seconds = 0;  // of the measured part
  double peak_rss_bytes = 0;
  double updates = 0;
};

// Runs `work` in a child process and returns what it returned.
Result in_child(const std::function<Result()>& work) {
  int pipe_ends[2];
  ESPALIER_CHECK(pipe(pipe_ends) == 0);
  const pid_t child = fork();
  ESPALIER_CHECK(child >= 0);
  if (child == 0) {
    Result result;
    try {
      models::configure_process();
      result = work();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      _exit(2);
    }
    result.peak_rss_bytes = static_cast<double>(peak_rss_bytes());
    const auto written = write(pipe_ends[1], &result, sizeof(result));
    _exit(written == sizeof(result) ? 0 : 1);
  }
  close(pipe_ends[1]);
  Result result;
  const auto got = read(pipe_ends[0], &result, sizeof(result));
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (got != sizeof(result) || status != 0) fail("bench", "a measured process failed");
  return result;
}

struct Case {
  std::string name;
  std::function<Result()> work;
  std::vector<double> seconds, memory;
  double updates = 0;
};

void measure(std::vector<Case>& cases, int repeats) {
  for (int repeat = 0; repeat < repeats; ++repeat) {
    for (Case& one : cases) {
      const Result result = in_child(one.work);
      one.seconds.push_back(result.seconds);
      one.memory.push_back(result.peak_rss_bytes);
      one.updates = result.updates;
    }
  }
}

// `rounds` rounds after one that warms up; synthetic images of MNIST's size.
Result simulate(const std::string& model, int64_t clients, int64_t samples, int64_t per_round,
                int64_t rounds, size_t threads) {
  Json tree = Json::object();
  const auto set = [&](const std::string& assignment) { set_config_value(tree, assignment); };
  set("data.name=synthetic");
  set("data.synthetic_train_samples=60000");
  set("data.synthetic_test_samples=100");
  set("data.partition.clients=" + std::to_string(clients));
  set("data.partition.samples_per_client=" + std::to_string(samples));
  set("model.name=" + model);
  set("train.lr=0.01");
  set("strategy.clients_per_round=" + std::to_string(per_round));
  set("rounds=" + std::to_string(rounds + 1));
  set("eval_every=0");
  run::Simulation simulation(run::read_run_config(tree), threads);
  simulation.step();
  const Stopwatch time;
  for (int64_t i = 0; i < rounds; ++i) simulation.step();
  // The last round also evaluates a hundred images; that is not training.
  const double evaluation = simulation.loop().ledger().eval_seconds;
  return {time.seconds() - evaluation, 0, static_cast<double>(rounds * per_round)};
}

void overhead(int repeats) {
  std::printf(
      "\nOverhead: the simulator against a bare libtorch loop doing the same SGD steps (median of "
      "%d)\n",
      repeats);
  std::printf("%-6s %8s %14s %14s %9s %9s\n", "model", "threads", "simulator s", "bare loop s",
              "ratio", "bar");
  struct Row {
    const char* model;
    size_t clients, samples;
    const char* bar;
  };
  for (const Row& row : {Row{"cnn", 10, 600, "<= 1.05"}, Row{"mlp", 200, 600, "<= 1.15"}}) {
    for (size_t threads : {1, 2}) {
      std::vector<Case> cases = {
          {"simulator",
           [&] {
             return simulate(row.model, 1000, static_cast<int64_t>(row.samples),
                             static_cast<int64_t>(row.clients), 1, threads);
           },
           {},
           {},
           0},
          {"bare",
           [&] {
             return Result{run_bare_loop({row.model, row.clients, row.samples, 10, threads}), 0, 0};
           },
           {},
           {},
           0}};
      measure(cases, repeats);
      const double ours = median(cases[0].seconds), bare = median(cases[1].seconds);
      std::printf("%-6s %8zu %14.3f %14.3f %9.2f %9s\n", row.model, threads, ours, bare,
                  ours / bare, row.bar);
    }
  }
}

void small_clients(int repeats) {
  std::printf(
      "\nSmall clients: MLP 784-64-10, 1,000 clients x 50 samples, batch 10, one epoch (median of "
      "%d)\n",
      repeats);
  std::vector<Case> cases = {
      {"", [] { return simulate("mlp", 1000, 50, 100, 100, 2); }, {}, {}, 0}};
  measure(cases, repeats);
  std::printf("%10.0f client updates per second on two threads (bar: >= 4,000), peak %.0f MB\n",
              cases[0].updates / median(cases[0].seconds), median(cases[0].memory) / 1e6);
}

void population(int repeats) {
  std::printf(
      "\nPopulation: clients declared, 100 of them per round, MLP 784-64-10, 50 samples each "
      "(median of %d)\n",
      repeats);
  std::vector<Case> cases;
  for (int64_t clients : {1000, 1'000'000}) {
    cases.push_back({std::to_string(clients),
                     [clients] { return simulate("mlp", clients, 50, 100, 50, 2); },
                     {},
                     {},
                     0});
  }
  measure(cases, repeats);
  std::printf("%10s %16s %14s\n", "declared", "ms per round", "peak MB");
  for (const Case& one : cases) {
    std::printf("%10s %16.2f %14.1f\n", one.name.c_str(), median(one.seconds) * 1000 / 50,
                median(one.memory) / 1e6);
  }
}

void scaling(int repeats) {
  std::printf("\nScaling: one thread against two, 10 clients per round (median of %d)\n", repeats);
  std::printf("%-6s %14s %14s %9s %9s\n", "model", "one thread s", "two threads s", "speed-up",
              "bar");
  for (const char* model : {"cnn", "mlp"}) {
    const bool small = std::strcmp(model, "mlp") == 0;
    std::vector<Case> cases;
    for (size_t threads : {1, 2}) {
      cases.push_back({"",
                       [=] {
                         return simulate(model, 1000, small ? 50 : 600, small ? 200 : 10,
                                         small ? 20 : 2, threads);
                       },
                       {},
                       {},
                       0});
    }
    measure(cases, repeats);
    const double one = median(cases[0].seconds), two = median(cases[1].seconds);
    std::printf("%-6s %14.3f %14.3f %9.2f %9s\n", model, one, two, one / two, ">= 1.8");
  }
}

}  // namespace
}  // namespace espalier::bench

int main(int argc, char** argv) {
  using espalier::bench::overhead, espalier::bench::population, espalier::bench::scaling,
      espalier::bench::small_clients;
  espalier::bench::Arguments arguments(argc, argv);
  const int repeats = static_cast<int>(arguments.number("--repeats", 3));
  std::vector<std::string> chosen = arguments.positional();
  arguments.finish("simulation_bench [overhead|small-clients|population|scaling]… [--repeats N]");
  if (chosen.empty()) chosen = {"overhead", "small-clients", "population", "scaling"};
  try {
    for (const std::string& name : chosen) {
      if (name == "overhead")
        overhead(repeats);
      else if (name == "small-clients")
        small_clients(repeats);
      else if (name == "population")
        population(repeats);
      else if (name == "scaling")
        scaling(repeats);
      else
        espalier::fail("bench",
                       espalier::unknown_name_message(
                           "table", name, {"overhead", "small-clients", "population", "scaling"}));
    }
  } catch (const espalier::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return 0;
}
