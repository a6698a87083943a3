#pragma once

// For tests: FedGKT on drawn images, with real nets and messages that are encoded as on the wire.

#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "espalier/data/load.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/strategy/fedgkt.h"
#include "espalier/strategy/test_client_half.h"

namespace espalier::strategy {

// A client's trainer that notes what the teacher says of each sample before it trains.
class SpyTrainer final : public train::Trainer {
 public:
  explicit SpyTrainer(std::unique_ptr<train::Trainer> trainer) : trainer_(std::move(trainer)) {}
  std::map<uint32_t, std::vector<float>> heard;  // by sample of the data set

  const std::shared_ptr<const ParameterLayout>& layout() const override {
    return trainer_->layout();
  }
  void initialize(Key key, ParameterSet& out) override { trainer_->initialize(key, out); }
  uint64_t macs_per_sample() const override { return trainer_->macs_per_sample(); }
  void load(const ParameterSet& weights) override { trainer_->load(weights); }
  void store(ParameterSet& weights) const override { trainer_->store(weights); }
  train::FitResult fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                       const train::StepOptions& options, const train::FitHooks& hooks,
                       Key key) override {
    heard.clear();
    for (const uint32_t sample : samples) {
      const float* logits = hooks.teacher ? hooks.teacher(sample) : nullptr;
      if (logits != nullptr) heard[sample].assign(logits, logits + dataset.num_classes);
    }
    return trainer_->fit(dataset, samples, options, hooks, key);
  }
  train::NormStatistics statistics(const data::Dataset& dataset, std::span<const uint32_t> samples,
                                   size_t batch_size) override {
    return trainer_->statistics(dataset, samples, batch_size);
  }
  std::vector<int64_t> feature_shape() const override { return trainer_->feature_shape(); }
  std::vector<size_t> extractor_tensors() const override { return trainer_->extractor_tensors(); }
  void predict(const data::Dataset& dataset, std::span<const uint32_t> samples,
               const data::Augmentation* augmentation, Key key, std::span<float> features,
               std::span<float> logits) override {
    trainer_->predict(dataset, samples, augmentation, key, features, logits);
  }
  train::EvalSums evaluate(const data::Dataset& dataset,
                           std::span<const uint32_t> samples) override {
    return trainer_->evaluate(dataset, samples);
  }

 private:
  std::unique_ptr<train::Trainer> trainer_;
};

// Three clients with 40, 30 and 21 samples in an order of their own, and 20 test samples each.
class GktFederation {
 public:
  struct Settings {
    size_t threads = 1;
    std::string uplink = "[]";
    int64_t side = 12;  // of the images
  };

  explicit GktFederation(FedGktOptions options) : GktFederation(options, Settings{}) {}
  GktFederation(FedGktOptions options, const Settings& settings)
      : strategy_(options), uplink_(codec::make_codec(Json::parse(settings.uplink), "uplink")) {
    data::DataOptions drawn;
    drawn.name = "synthetic";
    drawn.synthetic_train_samples = 91;
    drawn.synthetic_test_samples = 60;
    drawn.synthetic_classes = 3;
    drawn.synthetic_shape = {1, settings.side, settings.side};
    drawn.synthetic_noise = 0.7;
    data_ = data::load_dataset(drawn, Key(1));
    model_.name = "small-client";
    trainer_ = std::make_unique<SpyTrainer>(
        models::make_trainer(model_, train::spec_of(*data_.train), {}));
    ParameterSet initial;
    trainer_->initialize(Key(2), initial);
    global_ = std::make_shared<ParameterSet>(std::move(initial));
    uint32_t next = 0;
    for (const uint32_t size : {40u, 30u, 21u}) {
      auto& mine = samples_.emplace_back(size);
      std::iota(mine.begin(), mine.end(), next);
      Stream(Key(size)).shuffle(std::span(mine));
      next += size;
      auto& tests = tests_.emplace_back(20);
      std::iota(tests.begin(), tests.end(), static_cast<uint32_t>(20 * (tests_.size() - 1)));
    }
    states_.resize(samples_.size());
    train.optimizer = "adam";
    train.lr = 3e-3;
    train.batch_size = 10;
    setup.layout = global_->shared_layout();
    setup.num_clients = samples_.size();
    setup.model = model_;
    setup.data = train::spec_of(*data_.train);
    setup.train = train;
    setup.uplink = uplink_.get();
    setup.num_threads = settings.threads;
    setup.key = Key(5);
    strategy_.start(setup);
  }

  // Options that train fast on so little.
  static FedGktOptions options() {
    FedGktOptions options;
    options.server_model = "small-server";
    options.server_epochs = 2;
    options.server_batch_size = 24;
    options.server_lr = 3e-3;
    return options;
  }

  RoundInfo info() const { return {round_, 20, Key(9).child(round_), train, evaluates}; }

  Task task(uint64_t client) {
    Task task;
    task.round = round_;
    task.client = client;
    task.state_version = states_[client].empty() ? 0 : round_ - 1;
    task.train = train;
    strategy_.configure(info(), global_, task);
    return task;
  }

  // The client's half; its new state is kept.
  Update client_update(uint64_t client, const Task& task) {
    client::ClientContext context{*trainer_,
                                  *data_.train,
                                  samples_[client],
                                  info().key.child(client),
                                  states_[client].empty() ? nullptr : &states_[client],
                                  {},
                                  data_.test.get(),
                                  tests_[client]};
    Update update = run_client(context, task);
    states_[client] = std::move(context.next);
    return update;
  }

  // What the server gets of it.
  Update encoded(const Update& update) const {
    Update out = update;
    for (Payload& payload : out.payloads) {
      auto bytes = std::make_shared<Bytes>();
      uplink_->encode(*payload.values, Key(77), *bytes);
      payload.encoded = std::move(bytes);
      payload.layout = payload.values->shared_layout();
      payload.values = nullptr;
    }
    return out;
  }

  void deliver(uint64_t client, const Update& update, RoundSums& sums) {
    strategy_.check(info(), global_->layout(), static_cast<double>(samples_[client].size()),
                    update);
    strategy_.accumulate(info(), client, update, sums);
  }

  void run_round(const std::vector<uint64_t>& clients = {0, 1, 2}) {
    ++round_;
    RoundSums sums(clients.size(), 1000);
    for (const uint64_t client : clients)
      deliver(client, encoded(client_update(client, task(client))), sums);
    strategy_.finish(info(), sums, *global_);
    train_loss = sums.weighted_mean_of(kTrainLoss);
  }
  void next_round() { ++round_; }
  // The first round's tasks are given out again, as after a try that failed.
  void try_again() {
    --round_;
    states_.assign(states_.size(), {});
  }

  Bytes saved() const {
    Bytes bytes;
    ByteWriter writer(bytes);
    strategy_.save(writer);
    return bytes;
  }
  void restart(const Bytes& bytes) {
    strategy_.start(setup);
    ByteReader reader(bytes, "test");
    strategy_.load(reader);
    reader.finish();
  }

  FedGkt& strategy() { return strategy_; }
  const codec::Codec& uplink() const { return *uplink_; }
  SpyTrainer& trainer() { return *trainer_; }
  const data::DataSource& data() const { return data_; }
  const std::vector<uint32_t>& samples(uint64_t client) const { return samples_[client]; }
  const client::ClientState& state(uint64_t client) const { return states_[client]; }
  const std::shared_ptr<ParameterSet>& global() const { return global_; }
  train::EvalSums accuracy_sums() { return strategy_.capabilities().own_model->evaluated().sums; }
  // What the client would be told; null: nothing.
  std::shared_ptr<const ParameterSet> answers(uint64_t client) {
    for (const Payload& payload : task(client).payloads) {
      if (payload.name == fedgkt::kAnswers) return payload.values;
    }
    return nullptr;
  }
  // The server's net that answers.
  ParameterSet server() { return strategy_.capabilities().own_model->parts().at("server"); }
  double accuracy() {
    const train::EvalSums sums = accuracy_sums();
    return static_cast<double>(sums.correct) / static_cast<double>(sums.count);
  }

  train::StepOptions train;
  ServerSetup setup;
  bool evaluates = false;
  double train_loss = 0;

 private:
  FedGkt strategy_;
  std::unique_ptr<codec::Codec> uplink_;
  data::DataSource data_;
  models::ModelOptions model_;
  std::unique_ptr<SpyTrainer> trainer_;
  std::shared_ptr<ParameterSet> global_;
  std::vector<std::vector<uint32_t>> samples_, tests_;
  std::vector<client::ClientState> states_;
  uint32_t round_ = 0;
};

}  // namespace espalier::strategy
