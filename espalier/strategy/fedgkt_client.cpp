#include "espalier/strategy/fedgkt_client.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "espalier/base/error.h"
#include "espalier/client/local_training.h"
#include "espalier/strategy/fedgkt_payloads.h"

namespace espalier::strategy {

namespace {

constexpr const char* kWhere = "strategy/fedgkt";
constexpr const char* kNet = FedGktClient::kNet;
constexpr const char* kOptimizerSteps = "optimizer.steps";
constexpr size_t kBatch = 100;  // of a forward pass
// A count of steps is kept as two floats, so that it stays exact.
constexpr uint64_t kStepsDigit = uint64_t{1} << 24;

struct Buffer {
  const char* name;
  AlignedVector<float> train::OptimizerState::*member;
};
constexpr Buffer kBuffers[] = {{"optimizer.first", &train::OptimizerState::first},
                               {"optimizer.second", &train::OptimizerState::second},
                               {"optimizer.largest", &train::OptimizerState::largest}};

void restore(const client::ClientState& state, uint64_t client, train::Trainer& trainer,
             train::OptimizerState& optimizer) {
  const auto find = [&](const char* name, size_t size) -> const ParameterSet* {
    const auto found = state.sets.find(name);
    if (found == state.sets.end()) return nullptr;
    if (found->second.size() != size)
      fail(kWhere, "the stored state of client ", client, " belongs to another model");
    return &found->second;
  };
  const auto size = static_cast<size_t>(trainer.layout()->size());
  const ParameterSet* net = find(kNet, size);
  const ParameterSet* steps = find(kOptimizerSteps, 2);
  if (net == nullptr || steps == nullptr || !(net->layout() == *trainer.layout()))
    fail(kWhere, "the stored state of client ", client, " belongs to another model");
  trainer.load(*net);
  optimizer.steps = static_cast<uint64_t>(steps->values()[0]) +
                    kStepsDigit * static_cast<uint64_t>(steps->values()[1]);
  for (const Buffer& buffer : kBuffers) {
    if (const ParameterSet* set = find(buffer.name, size)) {
      const auto values = set->values();
      (optimizer.*buffer.member).assign(values.begin(), values.end());
    }
  }
}

void keep(const train::Trainer& trainer, train::OptimizerState&& optimizer,
          client::ClientState& state) {
  ParameterSet net;
  trainer.store(net);
  // The buffers belong to the weights: whatever a tensor's role, they are plain numbers.
  std::vector<ParameterInfo> plain = trainer.layout()->tensors();
  for (ParameterInfo& tensor : plain) {
    tensor.role = Role::kWeight;
    tensor.units.clear();
  }
  const auto layout = std::make_shared<const ParameterLayout>(std::move(plain));
  for (const Buffer& buffer : kBuffers) {
    AlignedVector<float>& values = optimizer.*buffer.member;
    if (!values.empty())
      state.sets.insert_or_assign(buffer.name, ParameterSet(layout, std::move(values)));
  }
  ParameterSet steps(std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{"steps", {2}, Role::kCounter}}));
  steps.values()[0] = static_cast<float>(optimizer.steps % kStepsDigit);
  steps.values()[1] = static_cast<float>(optimizer.steps / kStepsDigit);
  state.sets.insert_or_assign(kOptimizerSteps, std::move(steps));
  state.sets.insert_or_assign(kNet, std::move(net));
}

// The extractor's tensors, statistics included, as they are in `from`.
void copy_extractor(const train::Trainer& trainer, const ParameterSet& from,
                    std::span<float> weights) {
  for (const size_t t : trainer.extractor_tensors()) {
    const ParameterInfo& tensor = trainer.layout()->tensors()[t];
    std::ranges::copy(from.values(tensor), weights.begin() + tensor.offset);
  }
}

// The server's logits by the data set's sample.
std::unordered_map<uint32_t, const float*> teachers(const client::ClientContext& context,
                                                    const wire::Task& task, int64_t classes) {
  std::unordered_map<uint32_t, const float*> found;
  for (const wire::Payload& payload : task.payloads) {
    if (payload.name != fedgkt::kAnswers) continue;
    const ParameterSet& answers = *payload.values;
    const auto& tensors = answers.layout().tensors();
    const size_t n = tensors.empty() ? 0 : static_cast<size_t>(tensors[0].size);
    if (!(answers.layout() == *fedgkt::answers_layout(n, classes)))
      fail(kWhere, "the server's answers are not ids and logits of ", classes, " classes");
    const auto ids = answers.values(tensors[0]);
    const auto logits = answers.values(tensors[1]);
    for (size_t i = 0; i < n; ++i) {
      if (!(ids[i] >= 0 && ids[i] < static_cast<float>(context.samples.size())))
        fail(kWhere, "the server answers for sample ", ids[i], " of ", context.samples.size());
      found[context.samples[static_cast<size_t>(ids[i])]] =
          logits.data() + i * static_cast<size_t>(classes);
    }
  }
  return found;
}

// Feature maps and logits of the samples, in batches.
void extract(train::Trainer& trainer, const data::Dataset& dataset,
             std::span<const uint32_t> samples, const data::Augmentation* augmentation, Key key,
             std::span<float> features, std::span<float> logits) {
  for (size_t begin = 0; begin < samples.size(); begin += kBatch) {
    const size_t count = std::min(kBatch, samples.size() - begin);
    const size_t map = features.size() / samples.size(), row = logits.size() / samples.size();
    trainer.predict(dataset, samples.subspan(begin, count), augmentation, key.child(begin),
                    features.subspan(begin * map, count * map),
                    logits.subspan(begin * row, count * row));
  }
}

}  // namespace

wire::Update FedGktClient::run(client::ClientContext& context, const wire::Task& task) const {
  train::Trainer& trainer = context.trainer;
  const std::vector<int64_t> shape = trainer.feature_shape();
  if (shape.empty())
    fail(kWhere, "the model names no feature map; set model.name = \"resnet8-client\"");
  const int64_t classes = context.dataset.num_classes;
  const client::Measured measured;

  train::OptimizerState optimizer;
  if (context.previous != nullptr) {
    restore(*context.previous, task.client, trainer, optimizer);
  } else {
    trainer.load(*task.payload(wire::kModel).values);
  }
  const auto taught = teachers(context, task, classes);
  train::FitHooks hooks;
  hooks.optimizer = &optimizer;
  if (!taught.empty()) {
    hooks.loss = {1, options_.alpha, options_.temperature};
    hooks.teacher = [&taught](uint32_t sample) -> const float* {
      const auto found = taught.find(sample);
      return found == taught.end() ? nullptr : found->second;
    };
  }
  std::optional<ParameterSet> frozen;
  if (options_.extractor_rounds > 0 && task.round > options_.extractor_rounds) {
    trainer.store(frozen.emplace());
    hooks.after_step = [&](std::span<float> weights) { copy_extractor(trainer, *frozen, weights); };
  }
  const train::FitResult fit =
      trainer.fit(context.dataset, context.samples, task.train, hooks, context.key);
  if (frozen) {
    ParameterSet net;
    trainer.store(net);
    copy_extractor(trainer, *frozen, net.values());  // the last batch's statistics
    trainer.load(net);
  }
  keep(trainer, std::move(optimizer), context.next);

  // The same draw of samples, augmentation and noise whoever runs the client.
  const Key key = context.key.child(Purpose::kStrategy);
  const size_t n = fedgkt::num_uploaded(options_.sample_fraction, context.samples.size());
  const bool tests = task.scalar(fedgkt::kEvaluate) != 0 && context.test != nullptr;
  std::span<const uint32_t> held_out = tests ? context.test_samples : std::span<const uint32_t>{};
  if (options_.test_samples > 0)
    held_out =
        held_out.first(std::min(held_out.size(), static_cast<size_t>(options_.test_samples)));
  if (n > fedgkt::kMaxSamples || held_out.size() > fedgkt::kMaxSamples) {
    fail(kWhere, "an upload holds at most ", fedgkt::kMaxSamples,
         " samples; lower strategy.sample_fraction or set strategy.test_samples");
  }
  const auto chosen =
      sample_without_replacement(key.child(Purpose::kSelection), context.samples.size(), n);
  std::vector<uint32_t> samples(n);
  auto outputs = std::make_shared<ParameterSet>(fedgkt::outputs_layout(n, classes));
  for (size_t i = 0; i < n; ++i) {
    samples[i] = context.samples[chosen[i]];
    outputs->values("ids")[i] = static_cast<float>(chosen[i]);
    outputs->values("labels")[i] = static_cast<float>(context.dataset.labels[samples[i]]);
  }
  const data::Augmentation augmentation{task.train.crop_padding, task.train.flip,
                                        task.train.cutout};
  auto features = std::make_shared<ParameterSet>(fedgkt::features_layout(n, shape));
  const size_t map = features->size() / n;
  extract(trainer, context.dataset, samples, augmentation.any() ? &augmentation : nullptr,
          key.child(Purpose::kAugmentation), features->values(), outputs->values("logits"));
  fedgkt::protect(features->values(), map, options_.clip_features, options_.feature_noise,
                  key.child(Purpose::kNoise));

  wire::Update update;
  measured.report(fit, static_cast<double>(fit.macs + n * trainer.macs_per_sample()),
                  static_cast<double>(context.samples.size()), update);
  update.payloads.push_back({fedgkt::kOutputs, std::move(outputs), 1});
  update.payloads.push_back({fedgkt::kFeatures, std::move(features), 1});
  if (held_out.empty()) return update;

  // Evaluation, which is no part of what training costs.
  const size_t m = held_out.size();
  auto labels = std::make_shared<ParameterSet>(fedgkt::labels_layout(m));
  auto test_features = std::make_shared<ParameterSet>(fedgkt::features_layout(m, shape));
  std::vector<float> logits(m * static_cast<size_t>(classes));
  extract(trainer, *context.test, held_out, nullptr, Key(0), test_features->values(), logits);
  fedgkt::protect(test_features->values(), map, options_.clip_features, options_.feature_noise,
                  key.child(Purpose::kNoise).child(uint64_t{1} << 32));
  size_t correct = 0;
  for (size_t i = 0; i < m; ++i) {
    const int32_t label = context.test->labels[held_out[i]];
    labels->values()[i] = static_cast<float>(label);
    const auto row = logits.begin() + static_cast<ptrdiff_t>(i) * classes;
    if (std::max_element(row, row + classes) - row == label) ++correct;
  }
  update.scalars[fedgkt::kClientAccuracy] = static_cast<double>(correct) / static_cast<double>(m);
  update.payloads.push_back({fedgkt::kTestLabels, std::move(labels), 1});
  update.payloads.push_back({fedgkt::kTestFeatures, std::move(test_features), 1});
  return update;
}

}  // namespace espalier::strategy
