#include "espalier/strategy/server_net.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "espalier/base/error.h"
#include "espalier/base/memory_use.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/train/evaluation.h"

namespace espalier::strategy {

namespace {

class Permit {
 public:
  explicit Permit(std::counting_semaphore<>& permits) : permits_(permits) { permits_.acquire(); }
  ~Permit() { permits_.release(); }
  Permit(const Permit&) = delete;
  Permit& operator=(const Permit&) = delete;

 private:
  std::counting_semaphore<>& permits_;
};

// Where the shards meet before every step; each leaves with the mean of all gradients.
class GradientMean {
 public:
  GradientMean(size_t shards, std::counting_semaphore<>& permits)
      : gradients_(shards), permits_(permits) {}

  void exchange(size_t shard, std::span<float> gradients) {
    std::unique_lock lock(mutex_);
    gradients_[shard] = gradients;
    if (++arrived_ == gradients_.size()) {
      average();
      arrived_ = 0;
      ++step_;
      changed_.notify_all();
      return;
    }
    const uint64_t step = step_;
    permits_.release();
    changed_.wait(lock, [&] { return step_ != step || failed_; });
    const bool failed = step_ == step;
    lock.unlock();
    permits_.acquire();
    if (failed) fail("strategy/server", "another part of the batch failed");
  }

  // A shard that throws lets the others go.
  void abandon() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

 private:
  // Always in the order of the shards, whoever came last.
  void average() {
    const float factor = 1.0f / static_cast<float>(gradients_.size());
    const std::span<float> first = gradients_[0];
    for (size_t i = 0; i < first.size(); ++i) {
      float sum = first[i];
      for (size_t s = 1; s < gradients_.size(); ++s) sum += gradients_[s][i];
      first[i] = sum * factor;
    }
    for (size_t s = 1; s < gradients_.size(); ++s) std::ranges::copy(first, gradients_[s].begin());
  }

  std::vector<std::span<float>> gradients_;
  std::counting_semaphore<>& permits_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t arrived_ = 0;
  uint64_t step_ = 0;
  bool failed_ = false;
};

}  // namespace

ServerNet::ServerNet(Setup setup, Key key)
    : setup_(std::move(setup)),
      replicas_(std::max(setup_.num_threads, setup_.shards)),
      permits_(static_cast<std::ptrdiff_t>(setup_.num_threads)),
      pool_(replicas_.size(), [](size_t) { models::configure_thread(); }) {
  replica(0).initialize(key, weights_);
  macs_per_sample_ = replica(0).macs_per_sample();
}

void ServerNet::release() {
  for (auto& trainer : replicas_) trainer.reset();
  give_memory_back();  // clients' buffers have other sizes: without this the two add up
}

train::Trainer& ServerNet::replica(size_t index) {
  auto& trainer = replicas_[index];
  const MemoryScope scope(MemoryUse::kWeights);
  if (!trainer) trainer = models::make_trainer(setup_.model, setup_.data, setup_.hardware);
  return *trainer;
}

train::FitResult ServerNet::fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                                const train::StepOptions& options, const train::FitHooks& hooks,
                                train::OptimizerState& optimizer, Key key) {
  const size_t shards = setup_.shards;
  // Parts of equal size, so that all have the same number of steps.
  std::vector<uint32_t> order(samples.begin(), samples.end());
  Stream(key.child(Purpose::kShuffle)).shuffle(std::span(order));
  const size_t part = (order.size() + shards - 1) / shards;
  order.resize(part * shards);
  for (size_t i = samples.size(); i < order.size(); ++i) order[i] = order[i - samples.size()];

  train::StepOptions own = options;
  own.epochs = 1;
  // What it learns from was made of images that the clients have varied already.
  own.crop_padding = own.cutout = 0;
  own.flip = false;
  own.batch_size = std::max<int64_t>(
      1, (options.batch_size + static_cast<int64_t>(shards) - 1) / static_cast<int64_t>(shards));
  GradientMean mean(shards, permits_);
  std::vector<train::FitResult> results(shards);
  std::vector<train::OptimizerState> states(shards, optimizer);
  // What a shard failed of; the others only fail because it did.
  std::mutex mutex;
  std::string reason;
  pool_.run(shards, [&](size_t shard, size_t) {
    const Permit permit(permits_);
    try {
      train::Trainer& trainer = replica(shard);
      trainer.load(weights_);
      train::FitHooks all = hooks;
      all.optimizer = &states[shard];
      if (shards > 1) {
        all.before_step = [&mean, shard](std::span<const float>, std::span<float> gradients) {
          mean.exchange(shard, gradients);
        };
      }
      results[shard] = trainer.fit(dataset, std::span(order).subspan(shard * part, part), own, all,
                                   key.child(shard));
    } catch (const StorageError&) {
      mean.abandon();
      throw;
    } catch (const Error& error) {
      {
        const std::lock_guard lock(mutex);
        if (reason.empty()) reason = error.what();
      }
      mean.abandon();
    } catch (...) {
      mean.abandon();
      throw;
    }
  });
  if (!reason.empty()) throw Error(reason);

  optimizer = std::move(states[0]);
  train::FitResult total;
  for (size_t s = 0; s < shards; ++s) {
    total.loss += results[s].loss / static_cast<double>(shards);
    total.accuracy += results[s].accuracy / static_cast<double>(shards);
    total.samples += results[s].samples;
    total.macs += results[s].macs;
  }
  total.steps = results[0].steps;
  replicas_[0]->store(weights_);
  ParameterSet other;
  for (size_t s = 1; s < shards; ++s) {
    replicas_[s]->store(other);
    for (const ParameterInfo& tensor : weights_.layout().tensors()) {
      if (tensor.role != Role::kStatistic) continue;
      const auto into = weights_.values(tensor);
      const auto from = other.values(tensor);
      // The running mean of the first s + 1.
      for (size_t i = 0; i < into.size(); ++i)
        into[i] += (from[i] - into[i]) / static_cast<float>(s + 1);
    }
  }
  return total;
}

template <class Work>
void ServerNet::for_batches(size_t size, const Work& work) {
  std::vector<uint8_t> loaded(pool_.size(), 0);
  pool_.run((size + kBatch - 1) / kBatch, [&](size_t index, size_t worker) {
    const Permit permit(permits_);
    train::Trainer& trainer = replica(worker);
    if (loaded[worker] == 0) trainer.load(weights_);
    loaded[worker] = 1;
    work(trainer, index * kBatch, std::min(size, (index + 1) * kBatch), index);
  });
}

void ServerNet::predict(const data::Dataset& dataset, std::span<float> logits) {
  const std::vector<uint32_t> all = train::all_samples(dataset.size());
  const auto classes = static_cast<size_t>(setup_.data.num_classes);
  ESPALIER_CHECK(logits.size() == all.size() * classes, logits.size());
  for_batches(all.size(), [&](train::Trainer& trainer, size_t begin, size_t end, size_t) {
    trainer.predict(dataset, std::span(all).subspan(begin, end - begin), nullptr, Key(0), {},
                    logits.subspan(begin * classes, (end - begin) * classes));
  });
}

train::EvalSums ServerNet::evaluate(const data::Dataset& dataset,
                                    std::span<const uint32_t> samples) {
  std::vector<train::EvalSums> parts((samples.size() + kBatch - 1) / kBatch);
  for_batches(samples.size(), [&](train::Trainer& trainer, size_t begin, size_t end, size_t index) {
    parts[index] = trainer.evaluate(dataset, samples.subspan(begin, end - begin));
  });
  train::EvalSums total;
  for (const train::EvalSums& part : parts) total += part;
  return total;
}

}  // namespace espalier::strategy
