// The server's half of FedGKT.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/params/safetensors.h"
#include "espalier/strategy/fedgkt.h"

namespace espalier::strategy {

namespace {

constexpr const char* kWhere = "strategy/fedgkt";
// No honest feature or logit is near it, and squares and sums of what is below stay finite.
constexpr float kMaxMagnitude = 1e6f;
constexpr double kPlateauThreshold = 1e-4;  // of the best accuracy

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

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

// Whole numbers of [0, limit) that travelled as floats.
template <class T>
std::vector<T> whole_numbers(std::span<const float> values, double limit, const char* what) {
  std::vector<T> out;
  out.reserve(values.size());
  for (const float value : values) {
    if (!(value >= 0 && static_cast<double>(value) < limit) || value != std::floor(value))
      fail(kWhere, "expected ", what, " of 0 to ", limit - 1, ", got ", value);
    out.push_back(static_cast<T>(value));
  }
  return out;
}

const Payload* find(const Update& update, const char* name) {
  for (const Payload& payload : update.payloads) {
    if (payload.name == name) return &payload;
  }
  return nullptr;
}

}  // namespace

FedGkt::FedGkt(const Options& options) : options_(options) {}
FedGkt::~FedGkt() = default;

void FedGkt::start(const ServerSetup& setup) {
  setup_ = setup;
  {
    const auto client = train::make_trainer(setup.model, setup.data, "fp32", "cpu");
    feature_shape_ = client->feature_shape();
    extractor_ = client->extractor_tensors();
    if (feature_shape_.empty()) {
      fail(kWhere, "expected a client model that names a feature map, got model.name = \"",
           setup.model.name,
           "\"; use resnet8-client, small-client, or a TorchScript module that returns (features, "
           "logits)");
    }
  }
  if (setup.uplink == nullptr) fail(kWhere, "expected the uplink's codec, got none");
  train::ModelOptions model;
  model.name = options_.server_model;
  model.file = options_.server_file;
  train::DataSpec data{data::Kind::kFloat, feature_shape_, setup.data.num_classes, 0};
  try {
    net_ = std::make_unique<ServerNet>(
        ServerNet::Setup{model, data, options_.server_precision, options_.server_device,
                         options_.server_device == "cpu" ? setup.num_threads : 1,
                         static_cast<size_t>(options_.server_shards)},
        setup.key.child(Purpose::kStrategy));
  } catch (const Error& error) {
    fail(kWhere, "strategy.server_model = \"", options_.server_model,
         "\" cannot take the feature map ", shape_text(feature_shape_), " of model \"",
         setup.model.name, "\": ", error.what());
  }
  features_ = std::make_unique<FeatureStore>(
      *setup.uplink, static_cast<uint64_t>(options_.memory_limit_mb) * 1'000'000, setup.scratch);
  optimizer_ = {};
  plateau_ = {};
  uploads_.clear();
  answers_.clear();
  initial_ = initial_of_ = nullptr;
  evaluated_.reset();
  metrics_.clear();
}

void FedGkt::configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                       Task& task) {
  task.scalars[fedgkt::kEvaluate] = round.evaluates ? 1 : 0;
  if (task.state_version == 0) {
    if (initial_of_ != global) {
      initial_of_ = initial_ = global;
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
          std::ranges::copy(view->as_float(file.where()), initial->values(tensor).begin());
        }
        initial_ = std::move(initial);
      }
    }
    task.payloads.push_back({kModel, initial_, 1});
  }
  const std::lock_guard lock(mutex_);
  if (const auto found = answers_.find(task.client); found != answers_.end())
    task.payloads.push_back({fedgkt::kAnswers, found->second, 1});
}

int64_t FedGkt::max_values(const ParameterLayout& layout, double) const {
  // Uploads stay encoded: what is declared here is checked before anything is allocated for it.
  return std::max(layout.size(), static_cast<int64_t>(fedgkt::kMaxSamples) *
                                     (product(feature_shape_) + setup_.data.num_classes + 2));
}

void FedGkt::check(const ParameterLayout&, double num_samples, const Update& update) const {
  const size_t n = fedgkt::num_uploaded(options_.sample_fraction, static_cast<size_t>(num_samples));
  const auto expect = [&](const char* name, const auto& layout) {
    const Payload* payload = find(update, name);
    if (payload == nullptr) fail(kWhere, "the update has no payload '", name, "'");
    if (payload->encoded == nullptr || !(*payload->layout == *layout))
      fail(kWhere, "payload '", name, "' has another layout than that of ",
           layout->tensors().size(), " tensors, first ", shape_text(layout->tensors()[0].shape));
  };
  expect(fedgkt::kOutputs, fedgkt::outputs_layout(n, setup_.data.num_classes));
  expect(fedgkt::kFeatures, fedgkt::features_layout(n, feature_shape_));
  size_t payloads = 2;
  if (const Payload* labels = find(update, fedgkt::kTestLabels)) {
    const int64_t size = labels->layout->size();
    if (size < 1 || size > static_cast<int64_t>(fedgkt::kMaxSamples) ||
        (options_.test_samples > 0 && size > options_.test_samples)) {
      fail(kWhere, "an update with ", size, " test samples");
    }
    const auto m = static_cast<size_t>(size);
    expect(fedgkt::kTestLabels, fedgkt::labels_layout(m));
    expect(fedgkt::kTestFeatures, fedgkt::features_layout(m, feature_shape_));
    payloads += 2;
  }
  if (update.payloads.size() != payloads)
    fail(kWhere, "expected ", payloads, " payloads, got ", update.payloads.size());
}

FedGkt::Upload FedGkt::read_upload(const RoundInfo& round, const Update& update) const {
  const auto decode = [&](const Payload& payload) {
    ParameterSet values(payload.layout);
    setup_.uplink->decode(*payload.encoded, values);
    return values;
  };
  const auto classes = static_cast<double>(setup_.data.num_classes);
  const ParameterSet outputs = decode(*find(update, fedgkt::kOutputs));
  Upload upload;
  upload.ids = whole_numbers<uint32_t>(outputs.values("ids"), update.num_samples, "a sample");
  if (std::ranges::adjacent_find(upload.ids, std::greater_equal<>()) != upload.ids.end())
    fail(kWhere, "expected samples in ascending order, each once");
  upload.labels = whole_numbers<int32_t>(outputs.values("labels"), classes, "a label");
  const auto logits = outputs.values("logits");
  for (const float value : logits) {
    if (!(std::abs(value) <= kMaxMagnitude))
      fail(kWhere, "a logit of ", value, " exceeds the limit of ", kMaxMagnitude);
  }
  upload.logits.assign(logits.begin(), logits.end());
  if (const Payload* labels = find(update, fedgkt::kTestLabels)) {
    if (!round.evaluates) fail(kWhere, "test samples in a round that does not evaluate");
    upload.test_labels = whole_numbers<int32_t>(decode(*labels).values(), classes, "a label");
    upload.client_accuracy = update.scalar(fedgkt::kClientAccuracy);
    if (!(upload.client_accuracy >= 0 && upload.client_accuracy <= 1))
      fail(kWhere, "expected an accuracy, got ", upload.client_accuracy);
  }
  return upload;
}

void FedGkt::accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                        RoundSums& sums) {
  Upload upload = read_upload(round, update);
  const auto check = [&](const char* name) {
    const Payload& payload = *find(update, name);
    return features_->check(payload.encoded, payload.layout, kMaxMagnitude);
  };
  FeatureStore::Checked training = check(fedgkt::kFeatures), test;
  if (!upload.test_labels.empty()) test = check(fedgkt::kTestFeatures);
  // The sums keep the scalars and refuse who has answered already.
  sums.add(client, {update.num_samples, update.scalars, {}, nullptr});
  features_->put({client, false}, std::move(training));
  if (!upload.test_labels.empty()) features_->put({client, true}, std::move(test));
  const std::lock_guard lock(mutex_);
  uploads_[client] = std::move(upload);
}

void FedGkt::finish(const RoundInfo& round, const RoundSums&, ParameterSet&) {
  const Stopwatch clock;
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
  answer(dataset);
  metrics_["server_loss"] = fit.loss;
  metrics_["server_train_accuracy"] = fit.accuracy;
  metrics_["server_lr"] = options_.server_lr * plateau_.lr_scale;
  metrics_["server_macs"] =
      static_cast<double>(fit.macs + dataset.size() * net_->macs_per_sample());
  metrics_["server_seconds"] = clock.seconds();
  step_schedule(fit.accuracy);
  evaluated_.reset();
  if (round.evaluates) evaluate();
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
  train::TrainOptions options;
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
  }
  total.loss /= static_cast<double>(total.samples);
  total.accuracy /= static_cast<double>(total.samples);
  return total;
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
  double server = 0, own = 0;
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
    pooled.loss += sums.loss;
    pooled.correct += sums.correct;
    pooled.count += sums.count;
    server += static_cast<double>(sums.correct) / static_cast<double>(n);
    own += upload.client_accuracy;
    bytes += features_->size_bytes(key);
    ++clients;
  }
  // Without test samples there is no accuracy, and not that of the clients' initial weights either.
  evaluated_ = pooled;
  if (clients == 0) return;
  metrics_["server_accuracy_mean"] = server / static_cast<double>(clients);
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

std::map<std::string, ParameterSet> FedGkt::model_parts() const {
  return {{"server", net_->weights()}};
}

}  // namespace espalier::strategy
