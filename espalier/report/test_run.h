#pragma once

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <string>
#include <system_error>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/report/run_folder.h"

// For tests only: a folder that removes itself, and a run folder with plausible contents.
namespace espalier::report {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> counter{0};
    path_ = std::filesystem::temp_directory_path() /
            concat("espalier_report_", ::getpid(), "_", counter++);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// How the made-up run behaves. The numbers are invented curves, good only for looking at a report.
struct TestRun {
  std::string strategy = "fedavg";
  uint64_t rounds = 100;
  double up_ratio = 1, down_ratio = 1;  // bytes against fp32
  double ceiling = 0.9;                 // accuracy it converges to
  uint64_t seed = 1;
  uint64_t evaluate_every = 1;
  bool extra_fields = true;
};

inline RunFolder write_test_run(const std::filesystem::path& path, const TestRun& run = {}) {
  RunFolder folder = RunFolder::create(path);
  folder.write_config(concat("seed = ", run.seed, "\nrounds = ", run.rounds,
                             "\n\n[data]\nname = \"fashion-mnist\"\nroot = "
                             "\"/home/somebody/secret/data\"\n\n[data.partition]\n"
                             "name = \"dirichlet\"\nclients = 100\nalpha = 0.5\n\n[model]\nname = "
                             "\"cnn\"\n\n[strategy]\nname = \"",
                             run.strategy, "\"\nclients_per_round = 10\n"));
  const double dense = 6'653'480, clients = 10;
  Stream noise{Key(run.seed)};
  double best = 0, accuracy = 0, loss = 0, down = 0, up = 0, wall = 0;
  for (uint64_t round = 1; round <= run.rounds; ++round) {
    const double t = static_cast<double>(round);
    const double gone = 1 - std::exp(-t / 18);
    Json line{{"round", round}};
    down += dense * run.down_ratio * clients;
    up += dense * run.up_ratio * clients;
    const double seconds = 2.1 + 0.2 * noise.uniform();
    wall += seconds;
    if (round % run.evaluate_every == 0 || round == run.rounds) {
      accuracy = 0.1 + (run.ceiling - 0.1) * gone + 0.012 * noise.normal() * (1.1 - gone);
      loss = 2.3 * (1 - gone) + 0.28 + 0.02 * noise.normal() + (0.9 - run.ceiling);
      best = std::max(best, accuracy);
      line["accuracy"] = accuracy;
      line["loss"] = loss;
    }
    line["train_loss"] = 2.2 * std::exp(-t / 14) + 0.15 + 0.015 * noise.normal();
    line["train_accuracy"] = 0.1 + 0.85 * (1 - std::exp(-t / 14));
    line["clients_selected"] = 10;
    line["clients_failed"] = round % 31 == 0 ? 1 : 0;
    line["bytes_down"] = static_cast<uint64_t>(dense * run.down_ratio * clients);
    line["bytes_up"] = static_cast<uint64_t>(dense * run.up_ratio * clients);
    line["bytes_down_total"] = static_cast<uint64_t>(down);
    line["bytes_up_total"] = static_cast<uint64_t>(up);
    line["macs"] = uint64_t{73'800'000'000};
    line["macs_total"] = 73'800'000'000 * round;
    line["seconds"] = seconds;
    line["train_seconds"] = seconds * 0.85;
    line["eval_seconds"] = seconds * 0.1;
    line["wall_seconds"] = wall;
    line["lr"] = 0.05 * std::pow(0.99, t);
    line["peak_rss_bytes"] = 412'000'000 + 500'000 * round;
    if (run.extra_fields) line["update_norm"] = 3 * std::exp(-t / 30) + 0.4 + 0.05 * noise.normal();
    folder.append_metrics(line);
  }
  const double updates = static_cast<double>(run.rounds) * clients;
  folder.write_summary({{"strategy", run.strategy},
                        {"model", "cnn"},
                        {"dataset", "fashion-mnist"},
                        {"seed", run.seed},
                        {"rounds_completed", run.rounds},
                        {"final_accuracy", accuracy},
                        {"best_accuracy", best},
                        {"final_loss", loss},
                        {"bytes_down_total", static_cast<uint64_t>(down)},
                        {"bytes_up_total", static_cast<uint64_t>(up)},
                        {"bytes_down_per_client_round", dense * run.down_ratio},
                        {"bytes_up_per_client_round", dense * run.up_ratio},
                        {"dense_bytes_per_client_round", dense},
                        {"client_macs_total", 73'800'000'000 * run.rounds},
                        {"client_updates", updates},
                        {"client_updates_per_second", updates / wall},
                        {"wall_seconds", wall},
                        {"train_seconds", wall * 0.85},
                        {"peak_rss_bytes", 462'000'000},
                        {"clients_failed", 3}});
  ClientHistogram histogram{10, 100, {}};
  for (uint64_t id = 0; id < 100; ++id) {
    ClientLabels client{id, 0, std::vector<uint64_t>(10)};
    const std::vector<double> shares = noise.dirichlet(0.5, 10);
    for (size_t c = 0; c < 10; ++c) {
      client.labels[c] = static_cast<uint64_t>(shares[c] * (300 + 600 * noise.uniform()));
      client.samples += client.labels[c];
    }
    histogram.clients.push_back(client);
  }
  folder.write_clients(histogram);
  return folder;
}

}  // namespace espalier::report
