// The server's half of FedGKT.
#include <algorithm>
#include <numeric>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/params/safetensors.h"
#include "espalier/strategy/fedgkt.h"

namespace espalier::strategy {

namespace {

constexpr const char* kWhere = "strategy/fedgkt";
constexpr double kPlateauThreshold = 1e-4;  // of the best accuracy

// Samples of `data` that lie in a store, one client after the other.
data::Dataset stored_samples(const FeatureStore& store, std::vector<FeatureKey> keys,
                             std::vector<uint32_t> ends, std::vector<int32_t> labels,
                             const std::vector<int64_t>& shape, int64_t classes) {
  data::Dataset set;
  set.name = "uploaded features";
  set.kind = data::Kind::kFloat;
  set.sample_shape = shape;
  set.num_classes = classes;
  set.labels = std::move(labels);
  set.fetch = [&store, keys = std::move(keys), ends = std::move(ends)](uint32_t sample,
                                                                       std::span<float> out) {
    const auto end = std::upper_bound(ends.begin(), ends.end(), sample);
    const auto client = static_cast<size_t>(end - ends.begin());
    store.fetch(keys[client], sample - (client == 0 ? 0 : ends[client - 1]), out);
  };
  return set;
}

}  // namespace

FedGkt::FedGkt(const Options& options) : options_(options) {}
FedGkt::~FedGkt() = default;

void FedGkt::start(const ServerSetup& setup) {
  setup_ = setup;
  {
    const auto client = models::make_trainer(setup.model, setup.data, {});
    feature_shape_ = client->feature_shape();
    extractor_ = client->extractor_tensors();
    if (client->num_logits() != 0 &&
        client->num_logits() != static_cast<size_t>(setup.data.num_classes)) {
      fail(kWhere, "expected a client model with a logit for each of ", setup.data.num_classes,
           " classes, got ", client->num_logits(), " logits; FedGKT distills class by class");
    }
    if (feature_shape_.empty()) {
      fail(kWhere, "expected a client model that names a feature map, got model.name = \"",
           setup.model.name,
           "\"; use resnet8-client, small-client, or a TorchScript module that returns (features, "
           "logits)");
    }
  }
  if (setup.uplink == nullptr) fail(kWhere, "expected the uplink's codec, got none");
  models::ModelOptions model;
  model.name = options_.server_model;
  model.file = options_.server_file;
  train::DataSpec data{data::Kind::kFloat, feature_shape_, setup.data.num_classes, 0};
  try {
    net_ = std::make_unique<ServerNet>(
        ServerNet::Setup{model,
                         data,
                         {options_.server_precision, options_.server_device},
                         options_.server_device == "cpu" ? setup.num_threads : 1,
                         static_cast<size_t>(options_.server_shards)},
        setup.key.child(Purpose::kStrategy));
  } catch (const Error& error) {
    fail(kWhere, "strategy.server_model = \"", options_.server_model,
         "\" cannot take the feature map ", shape_text(feature_shape_), " of model \"",
         setup.model.name, "\": ", error.what());
  }
  features_ = std::make_unique<FeatureStore>(
      *setup_.uplink, static_cast<uint64_t>(options_.memory_limit_mb) * 1'000'000, setup_.scratch);
  average_ = {};
  optimizer_ = {};
  plateau_ = {};
  uploads_.clear();
  answers_.clear();
  initial_ = initial_of_ = nullptr;
  evaluated_ = {};
  metrics_.clear();
}

void FedGkt::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                       Task& task) {
  task.algorithm = FedGktClient::kName;
  task.options = changed_options<FedGktClientOptions>(options_);
  task.scalars[fedgkt::kEvaluate] = round.evaluates ? 1 : 0;
  if (task.state_version == 0) {
    if (initial_of_ != global) {
      initial_ = global;
      if (!options_.pretrained_extractor.empty()) {
        const auto file = SafetensorsFile::read(options_.pretrained_extractor);
        auto initial = std::make_shared<ParameterSet>(*global);
        for (const size_t t : extractor_) {
          const ParameterInfo& tensor = global->layout().tensors()[t];
          const TensorView* view = file.find(tensor.name);
          if (view == nullptr || view->shape != tensor.shape) {
            fail(kWhere, "expected a tensor '", tensor.name, "' of shape ",
                 shape_text(tensor.shape), " in ", options_.pretrained_extractor, ", got ",
                 view == nullptr ? "none" : shape_text(view->shape));
          }
          std::ranges::copy(file.weights(tensor.name, *view), initial->values(tensor).begin());
        }
        initial_ = std::move(initial);
      }
      initial_of_ = global;
    }
    task.payloads.push_back({kModel, initial_, 1});
  }
  const std::lock_guard lock(mutex_);
  if (const auto found = answers_.find(task.client); found != answers_.end())
    task.payloads.push_back({fedgkt::kAnswers, found->second, 1});
}

void FedGkt::forget_failed(const RoundSums& sums) {
  const bool synchronous = options_.mode == "synchronous";
  for (auto at = uploads_.begin(); at != uploads_.end();) {
    if (sums.counts(at->first)) {
      ++at;
      continue;
    }
    features_->erase({at->first, true});
    at->second.test_labels.clear();
    if (synchronous) features_->erase({at->first, false});
    at = synchronous ? uploads_.erase(at) : std::next(at);
  }
}

void FedGkt::finish(const RoundInfo& round, const RoundSums& sums, ParameterSet&) {
  const Stopwatch clock;
  forget_failed(sums);
  net_->release();  // of what clients in this process have freed
  metrics_.clear();
  const double in_memory = static_cast<double>(features_->memory_bytes());
  metrics_["features_bytes"] = in_memory + static_cast<double>(features_->disk_bytes());
  metrics_["features_on_disk_bytes"] = static_cast<double>(features_->disk_bytes());

  std::vector<FeatureKey> keys;
  std::vector<uint32_t> ends;
  std::vector<int32_t> labels;
  for (const auto& [client, upload] : uploads_) {
    keys.push_back({client, false});
    labels.insert(labels.end(), upload.labels.begin(), upload.labels.end());
    ends.push_back(static_cast<uint32_t>(labels.size()));
  }
  const auto dataset = stored_samples(*features_, std::move(keys), std::move(ends),
                                      std::move(labels), feature_shape_, setup_.data.num_classes);
  const train::FitResult fit = train(dataset, round.key.child(Purpose::kStrategy));
  if (!all_finite(net_->weights().values())) {
    fail(kWhere, "the server's net is no longer finite after round ", round.round,
         "; lower strategy.server_lr");
  }
  use_average();
  answer(dataset);
  metrics_["server_loss"] = fit.loss;
  metrics_["server_train_accuracy"] = fit.accuracy;
  metrics_["server_lr"] = options_.server_lr * plateau_.lr_scale;
  metrics_["server_macs"] =
      static_cast<double>(fit.macs + dataset.size() * net_->macs_per_sample());
  metrics_["server_seconds"] = clock.seconds();
  step_schedule(fit.accuracy);
  evaluated_ = {};
  if (round.evaluates) {
    const Stopwatch evaluation;
    evaluate();
    evaluated_.seconds = evaluation.seconds();
  }
  use_weights();
  net_->release();

  if (options_.mode == "synchronous") {
    features_->clear();
    uploads_.clear();
  } else {
    for (auto& [client, upload] : uploads_) {
      features_->erase({client, true});
      upload.test_labels.clear();
    }
  }
}

train::FitResult FedGkt::train(const data::Dataset& dataset, Key key) {
  // Groups of samples that batches do not cross.
  std::vector<std::vector<uint32_t>> groups;
  std::vector<const float*> logits;
  for (const auto& [client, upload] : uploads_) {
    if (groups.empty() || !options_.shuffle_clients) groups.emplace_back();
    for (size_t i = 0; i < upload.ids.size(); ++i) {
      groups.back().push_back(static_cast<uint32_t>(logits.size()));
      logits.push_back(upload.logits.data() + i * static_cast<size_t>(setup_.data.num_classes));
    }
  }
  train::FitHooks hooks;
  if (options_.server_distillation) {
    hooks.loss = {options_.alpha, 1, options_.temperature};
    hooks.teacher = [&logits](uint32_t sample) { return logits[sample]; };
  }
  train::StepOptions options;
  options.optimizer = options_.server_optimizer;
  options.lr = options_.server_lr * plateau_.lr_scale;
  options.momentum = options_.server_momentum;
  options.weight_decay = options_.server_weight_decay;
  options.amsgrad = options_.server_amsgrad;
  options.batch_size = options_.server_batch_size;
  train::FitResult total;
  for (uint64_t epoch = 0; epoch < static_cast<uint64_t>(options_.server_epochs); ++epoch) {
    for (size_t g = 0; g < groups.size(); ++g) {
      const auto part =
          net_->fit(dataset, groups[g], options, hooks, optimizer_, key.child(epoch).child(g));
      const auto samples = static_cast<double>(part.samples);
      total.loss += part.loss * samples;
      total.accuracy += part.accuracy * samples;
      total.samples += part.samples;
      total.steps += part.steps;
      total.macs += part.macs;
    }
    add_to_average();
  }
  total.loss /= static_cast<double>(total.samples);
  total.accuracy /= static_cast<double>(total.samples);
  return total;
}

// Starts with the weights after the first pass. Counters are the latest.
void FedGkt::add_to_average() {
  if (options_.server_average == 0) return;
  if (average_.empty()) {
    average_ = net_->weights();
    return;
  }
  const auto stays = static_cast<float>(options_.server_average);
  for (const ParameterInfo& tensor : average_.layout().tensors()) {
    const auto weights = net_->weights().values(tensor);
    const auto average = average_.values(tensor);
    const float share = tensor.role == Role::kCounter ? 0 : stays;
    for (size_t i = 0; i < average.size(); ++i)
      average[i] = weights[i] + share * (average[i] - weights[i]);
  }
}

void FedGkt::use_average() {
  if (average_.empty()) return;
  trained_ = net_->weights();
  net_->set_weights(average_);
}

void FedGkt::use_weights() {
  if (average_.empty()) return;
  net_->set_weights(trained_);
  trained_ = {};
}

void FedGkt::answer(const data::Dataset& dataset) {
  const auto classes = static_cast<size_t>(setup_.data.num_classes);
  std::vector<float> logits(dataset.size() * classes);
  net_->predict(dataset, logits);
  size_t first = 0;
  for (const auto& [client, upload] : uploads_) {
    const size_t n = upload.ids.size();
    auto answers =
        std::make_shared<ParameterSet>(fedgkt::answers_layout(n, static_cast<int64_t>(classes)));
    std::ranges::transform(upload.ids, answers->values("ids").begin(),
                           [](uint32_t id) { return static_cast<float>(id); });
    std::ranges::copy(std::span(logits).subspan(first * classes, n * classes),
                      answers->values("logits").begin());
    first += n;
    answers_[client] = std::move(answers);
  }
}

void FedGkt::evaluate() {
  train::EvalSums pooled;
  double server = 0, own = 0, lowest = 1, highest = 0;
  size_t clients = 0;
  uint64_t bytes = 0;
  for (const auto& [client, upload] : uploads_) {
    const size_t n = upload.test_labels.size();
    if (n == 0) continue;
    const FeatureKey key{client, true};
    const auto dataset =
        stored_samples(*features_, {key}, {static_cast<uint32_t>(n)}, upload.test_labels,
                       feature_shape_, setup_.data.num_classes);
    std::vector<uint32_t> all(n);
    std::iota(all.begin(), all.end(), uint32_t{0});
    const train::EvalSums sums = net_->evaluate(dataset, all);
    pooled += sums;
    const double accuracy = static_cast<double>(sums.correct) / static_cast<double>(n);
    server += accuracy;
    lowest = std::min(lowest, accuracy);
    highest = std::max(highest, accuracy);
    own += upload.client_accuracy;
    bytes += features_->size_bytes(key);
    ++clients;
  }
  // Without test samples there is no accuracy, and not that of the clients' initial weights either.
  evaluated_.sums = pooled;
  if (clients == 0) return;
  metrics_["server_test_samples"] = static_cast<double>(pooled.count);
  metrics_["server_accuracy_mean"] = server / static_cast<double>(clients);
  metrics_["server_accuracy_min"] = lowest;
  metrics_["server_accuracy_max"] = highest;
  metrics_["client_accuracy"] = own / static_cast<double>(clients);
  metrics_["test_features_bytes"] = static_cast<double>(bytes);
}

void FedGkt::step_schedule(double accuracy) {
  if (accuracy > plateau_.best * (1 + kPlateauThreshold)) {
    plateau_.best = accuracy;
    plateau_.bad_rounds = 0;
  } else if (++plateau_.bad_rounds > options_.server_lr_patience) {
    plateau_.lr_scale *= options_.server_lr_factor;
    plateau_.bad_rounds = 0;
  }
}

OwnModel::Travelling FedGkt::travelling() const {
  const auto features = fedgkt::features_layout(1, feature_shape_);
  std::vector<ParameterInfo> up = fedgkt::outputs_layout(1, setup_.data.num_classes)->tensors();
  up.push_back(features->tensors()[0]);
  return {.down = fedgkt::answers_layout(1, setup_.data.num_classes),
          .up = std::make_shared<const ParameterLayout>(std::move(up)),
          .what = "feature map",
          .bulk = features};
}

std::map<std::string, ParameterSet> FedGkt::parts() const {
  return {{"server", average_.empty() ? net_->weights() : average_}};
}

}  // namespace espalier::strategy
