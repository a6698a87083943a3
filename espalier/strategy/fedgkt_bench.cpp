// Whole rounds of FedGKT without files and transport: clients train on the threads of a pool,
// messages are encoded as on the wire, the server trains and evaluates.
//
//   fedgkt_bench [threads] [server precision] [server shards] [bits; 0: fp32] [client precision]
//   [rounds]
//
// The workload: 4 clients × 500 training and 250 test samples of 3×32×32, resnet8-client and
// resnet55-server, batch 100, Adam, one epoch on both sides. Prints seconds per round and the
// process's peak memory.
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "espalier/base/clock.h"
#include "espalier/base/thread_pool.h"
#include "espalier/data/load.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/strategy/fedgkt.h"
#include "espalier/strategy/test_client_half.h"

namespace espalier::strategy {
namespace {

constexpr size_t kClients = 4, kTrain = 500, kTest = 250;

void run(uint32_t rounds, size_t threads, const std::string& precision, int64_t shards, int bits,
         const std::string& client_precision) {
  models::configure_process();
  data::DataOptions drawn;
  drawn.name = "synthetic";
  drawn.synthetic_train_samples = kClients * kTrain;
  drawn.synthetic_test_samples = kClients * kTest;
  drawn.synthetic_shape = {3, 32, 32};
  const data::DataSource data = data::load_dataset(drawn, Key(1));
  const Json stages =
      bits == 0 ? Json::array()
                : Json::array({{{"stage", "hadamard"}}, {{"stage", "quantize"}, {"bits", bits}}});
  const auto uplink = codec::make_codec(stages, "uplink");

  FedGktOptions options;
  options.server_epochs = 1;
  options.server_batch_size = 100;
  options.server_precision = precision;
  options.server_shards = shards;
  FedGkt strategy(options);
  ServerSetup setup;
  setup.num_clients = kClients;
  setup.model.name = "resnet8-client";
  setup.data = train::spec_of(*data.train);
  setup.train.optimizer = "adam";
  setup.train.lr = 1e-3;
  setup.train.batch_size = 100;
  setup.uplink = uplink.get();
  setup.num_threads = threads;
  std::vector<std::unique_ptr<train::Trainer>> trainers(threads);
  for (auto& trainer : trainers)
    trainer = models::make_trainer(setup.model, setup.data, {client_precision, "cpu"});
  setup.layout = trainers[0]->layout();
  auto global = std::make_shared<ParameterSet>();
  trainers[0]->initialize(Key(2), *global);
  strategy.start(setup);

  std::vector<uint32_t> all(kClients * kTrain);
  std::iota(all.begin(), all.end(), uint32_t{0});
  std::vector<client::ClientState> states(kClients);
  ThreadPool pool(threads, [](size_t) { models::configure_thread(); });
  for (uint32_t round = 1; round <= rounds; ++round) {
    const RoundInfo info{round, 4, Key(3).child(round), setup.train, true};
    RoundSums sums(kClients, kTrain);
    const Stopwatch clock;
    std::mutex mutex;
    double bytes = 0;
    pool.run(kClients, [&](size_t client, size_t worker) {
      auto& trainer =
          trainers[worker];  // made anew each round: its memory is the server's after it
      if (!trainer)
        trainer = models::make_trainer(setup.model, setup.data, {client_precision, "cpu"});
      Task task;
      task.round = round;
      task.client = client;
      task.state_version = round - 1;
      task.train = setup.train;
      {
        const std::lock_guard lock(mutex);
        strategy.configure(info, global, task);
      }
      const std::span<const uint32_t> samples(all);
      client::ClientContext context{*trainer,
                                    *data.train,
                                    samples.subspan(client * kTrain, kTrain),
                                    info.key.child(client),
                                    round == 1 ? nullptr : &states[client],
                                    {},
                                    data.test.get(),
                                    samples.subspan(client * kTest, kTest)};
      Update update = run_client(context, task);
      states[client] = std::move(context.next);
      for (Payload& payload : update.payloads) {
        auto encoded = std::make_shared<Bytes>();
        uplink->encode(*payload.values, info.key.child(client), *encoded);
        payload.layout = payload.values->shared_layout();
        payload.values = nullptr;
        const std::lock_guard lock(mutex);
        bytes += static_cast<double>(encoded->size());
        payload.encoded = std::move(encoded);
      }
      strategy.check(info, *setup.layout, static_cast<double>(kTrain), update);
      strategy.accumulate(info, client, update, sums);
    });
    for (auto& trainer : trainers) trainer.reset();
    const double clients = clock.seconds();
    strategy.finish(info, sums, *global);
    const auto metrics = strategy.take_report().figures;
    std::printf(
        "round %u: %.2f s (clients %.2f, server %.2f, evaluation %.2f), up %.1f MB, peak %.0f MB, "
        "server loss %.4f, accuracy %.3f\n",
        round, clock.seconds(), clients, metrics.at("server_seconds"),
        clock.seconds() - clients - metrics.at("server_seconds"), bytes * 1e-6,
        static_cast<double>(peak_rss_bytes()) * 1e-6, metrics.at("server_loss"),
        metrics.at("server_accuracy_mean"));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace espalier::strategy

int main(int argc, char** argv) {
  const auto argument = [&](int i, const char* otherwise) {
    return std::string(argc > i ? argv[i] : otherwise);
  };
  espalier::strategy::run(static_cast<uint32_t>(std::stoul(argument(6, "4"))),
                          std::stoul(argument(1, "2")), argument(2, "fp32"),
                          std::stol(argument(3, "2")), std::stoi(argument(4, "4")),
                          argument(5, "fp32"));
}
