// A client in one program: tasks arrive as files, updates leave as files. It is linked to see what
// a client needs, and run to see that it works.
//
//   client_link            trains a task that it makes itself and prints what came of it
#include <cstdio>
#include <numeric>

#include "espalier/client/session.h"
#include "espalier/data/load.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/strategy/client_algorithms.h"

int main() {
  using namespace espalier;
  models::configure_process();
  data::DataOptions options;
  options.name = "synthetic";
  options.synthetic_train_samples = 60;
  options.synthetic_test_samples = 1;
  options.synthetic_shape = {1, 12, 12};
  const data::DataSource data = data::load_dataset(options, Key(1));
  models::ModelOptions model;
  model.name = "cnn";
  model.width = 0.25;
  const auto trainer = models::make_trainer(model, train::spec_of(*data.train));
  auto weights = std::make_shared<ParameterSet>(trainer->layout());
  trainer->initialize(Key(2), *weights);
  const auto codec = codec::make_codec(Json::array(), "link");

  wire::Task task;
  task.round = 1;
  task.algorithm = "fedavg";
  task.payloads.push_back({wire::kModel, weights, 1});
  const wire::EncodedMessage message =
      encode_task(task, Key(3), *codec, Key(4), {trainer->layout()}, nullptr);

  std::vector<uint32_t> samples(data.train->size());
  std::iota(samples.begin(), samples.end(), 0u);
  const client::ClientEnvironment environment{.algorithms = strategy::client_algorithms(),
                                              .downlink = *codec,
                                              .uplink = *codec,
                                              .limits = {trainer->layout()}};
  const wire::EncodedMessage answer =
      client::run_client_task(wire::read_stream(write_stream(message)), environment,
                              [&](std::span<const int64_t>) -> train::Trainer& { return *trainer; },
                              {*data.train, samples});
  const wire::Update update = decode_update(answer, *codec, {trainer->layout()});
  std::printf("%.0f samples, %.0f steps, %llu bytes up\n", update.num_samples,
              update.scalar(wire::kSteps), static_cast<unsigned long long>(answer.size_bytes()));
  return update.payloads.size() == 1 ? 0 : 1;
}
