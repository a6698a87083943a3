#include "espalier/nn/flat_trainer.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/memory_use.h"
#include "espalier/nn/kernels.h"
#include "espalier/params/safetensors.h"
#include "espalier/train/evaluation.h"

namespace espalier::nn {
namespace {

// The values of the tensors that `wanted` accepts, adjacent tensors joined.
template <class Predicate>
std::vector<Segment> segments_of(const ParameterLayout& layout, Predicate wanted) {
  std::vector<Segment> parts;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const ParameterInfo& tensor = layout.tensors()[i];
    if (!is_trainable(tensor.role) || tensor.size == 0 || !wanted(i)) continue;
    const auto begin = static_cast<size_t>(tensor.offset),
               end = begin + static_cast<size_t>(tensor.size);
    if (!parts.empty() && parts.back().end == begin) {
      parts.back().end = end;
    } else {
      parts.push_back({begin, end});
    }
  }
  return parts;
}

}  // namespace

FlatTrainer::FlatTrainer(std::unique_ptr<Net> net, const DataSpec& data, NarrowNet narrow,
                         std::string init_file)
    : net_(std::move(net)),
      narrow_(std::move(narrow)),
      data_(data),
      init_file_(std::move(init_file)) {
  const ParameterLayout& layout = *net_->layout();
  weights_.assign(static_cast<size_t>(layout.size()), 0.0f);
  gradients_.assign(weights_.size(), 0.0f);
  const std::vector<size_t> fused = net_->fused_tensors();
  trainable_ = segments_of(layout, [](size_t) { return true; });
  unfused_ = segments_of(
      layout, [&](size_t i) { return std::find(fused.begin(), fused.end(), i) == fused.end(); });
}

void FlatTrainer::initialize(Key key, ParameterSet& out) {
  if (out.empty() || !(out.layout() == *layout())) out = ParameterSet(layout());
  if (init_file_.empty()) {
    net_->initialize(key, out);
  } else {
    read_weights(SafetensorsFile::read(init_file_), fixed(), out);
  }
}

uint64_t FlatTrainer::training_bytes(int64_t batch_size, const StepOptions& options) const {
  const auto size = static_cast<uint64_t>(batch_size);
  uint64_t sample = 1;
  for (const int64_t extent : data_.sample_shape) sample *= static_cast<uint64_t>(extent);
  uint64_t value = data_.kind == data::Kind::kTokens ? sizeof(int64_t) : sizeof(float);
  // gather() turns float images around.
  if (data_.kind == data::Kind::kFloat && data_.sample_shape.size() == 3) value *= 2;
  return (weights_.size() + gradients_.size()) * sizeof(float) +
         Optimizer::state_bytes(options, weights_.size()) + net_->training_bytes(batch_size) +
         size * (sample * value + sizeof(int64_t));  // samples and labels
}

NestedNet& FlatTrainer::nested(const SubmodelTraining& training, const data::Dataset& dataset,
                               std::span<const uint32_t> samples, Key key) {
  if (nested_ == nullptr) nested_ = std::make_unique<NestedNet>(*net_, narrow_);
  std::vector<uint8_t> classes(static_cast<size_t>(data_.num_classes), 0);
  for (const uint32_t sample : samples) classes[static_cast<size_t>(dataset.labels[sample])] = 1;
  nested_->start(training, classes, key);
  return *nested_;
}

void FlatTrainer::load(const ParameterSet& weights) {
  ESPALIER_CHECK(weights.size() == weights_.size(), weights.size(), " values for a model of ",
                 weights_.size());
  loaded_ = nullptr;
  std::copy(weights.values().begin(), weights.values().end(), weights_.begin());
}

void FlatTrainer::load_shared(const std::shared_ptr<const ParameterSet>& weights) {
  ESPALIER_CHECK(weights->size() == weights_.size(), weights->size(), " values for a model of ",
                 weights_.size());
  loaded_ = weights;
}

void FlatTrainer::copy_loaded() const {
  if (loaded_ == nullptr) return;
  std::ranges::copy(loaded_->values(), weights_.begin());
  loaded_ = nullptr;
}

void FlatTrainer::store(ParameterSet& weights) const {
  copy_loaded();
  if (weights.empty() || !(weights.layout() == *layout())) weights = ParameterSet(layout());
  std::copy(weights_.begin(), weights_.end(), weights.values().begin());
}

void FlatTrainer::check(const data::Dataset& dataset) const {
  if (dataset.kind != data_.kind || dataset.sample_shape != data_.sample_shape ||
      dataset.num_classes > data_.num_classes || dataset.vocabulary > data_.vocabulary) {
    fail("train/data", "expected samples of shape ", shape_text(data_.sample_shape),
         " and at most ", data_.num_classes, " classes, got ", shape_text(dataset.sample_shape),
         " and ", dataset.num_classes, " (data set ", dataset.name, ")");
  }
}

// What is drawn where nothing is trained depends on nothing but the batch.
Key FlatTrainer::drawing_key(std::span<const uint32_t> samples) {
  const Key key = Key(0x65766177).child(Purpose::kDropout);
  return samples.empty() ? key : key.child(samples.front());
}

Batch FlatTrainer::unaugmented(const data::Dataset& dataset, std::span<const uint32_t> indices) {
  Batch batch = gather(dataset, indices, nullptr, Key(0));
  batch.key = drawing_key(indices);
  return batch;
}

Batch FlatTrainer::gather(const data::Dataset& dataset, std::span<const uint32_t> indices,
                          const data::Augmentation* augmentation, Key key) {
  const MemoryScope scope(MemoryUse::kScratch);
  Batch batch;
  batch.size = static_cast<int64_t>(indices.size());
  labels_.resize(std::max(labels_.size(), indices.size()));
  const auto labels = std::span(labels_).first(indices.size());
  data::gather_labels(dataset, indices, labels);
  batch.labels = labels;
  const size_t size = indices.size() * dataset.sample_size();
  if (dataset.kind == data::Kind::kTokens) {
    tokens_.resize(std::max(tokens_.size(), size));
    const auto tokens = std::span(tokens_).first(size);
    data::gather_tokens(dataset, indices, tokens);
    batch.tokens = tokens;
    return batch;
  }
  values_.resize(std::max(values_.size(), size));
  const auto values = std::span(values_).first(size);
  if (dataset.kind == data::Kind::kFloat && dataset.sample_shape.size() == 3) {
    // Float samples stand channel by channel; nets read pixel by pixel.
    planar_.resize(std::max(planar_.size(), size));
    data::gather(dataset, indices, augmentation, key, std::span(planar_).first(size));
    const auto channels = static_cast<size_t>(dataset.sample_shape[0]);
    unflatten(planar_.data(), indices.size(), dataset.sample_size() / std::max<size_t>(1, channels),
              channels, values.data());
  } else {
    data::gather(dataset, indices, augmentation, key, values);
  }
  batch.values = values;
  return batch;
}

void FlatTrainer::check_loss(const FitHooks& hooks) const {
  const LossOptions& loss = hooks.loss;
  const auto weight = [](double value) { return value >= 0 && std::isfinite(value); };
  if (!weight(loss.cross_entropy) || !weight(loss.distillation) || !weight(loss.temperature) ||
      loss.temperature == 0) {
    fail("train/loss", "expected weights of at least 0 and a temperature above 0, got ",
         loss.cross_entropy, ", ", loss.distillation, " and ", loss.temperature);
  }
  if (hooks.submodel != nullptr && hooks.submodel->distillation > 0 &&
      (hooks.teacher || loss != LossOptions{})) {
    fail("train/loss",
         "nested widths with self-distillation have a loss of their own; set the "
         "sub-model's distillation to 0 or train without another teacher");
  }
  if (hooks.teacher && net_->num_logits() != static_cast<size_t>(data_.num_classes)) {
    fail("train/loss", "expected a model with a logit for each of ", data_.num_classes,
         " classes, got ", net_->num_logits(), " logits");
  }
}

void FlatTrainer::teach(const FitHooks& hooks, std::span<const uint32_t> indices, Batch& batch) {
  batch.loss = hooks.loss;
  if (!hooks.teacher || hooks.loss.distillation == 0) return;
  const auto classes = static_cast<size_t>(data_.num_classes);
  teacher_.resize(std::max(teacher_.size(), indices.size() * classes));
  taught_.assign(indices.size(), 0);
  bool any = false;
  for (size_t i = 0; i < indices.size(); ++i) {
    const float* logits = hooks.teacher(indices[i]);
    if (logits == nullptr) continue;
    std::copy_n(logits, classes, teacher_.begin() + static_cast<std::ptrdiff_t>(i * classes));
    taught_[i] = 1;
    any = true;
  }
  if (!any) return;
  batch.teacher = std::span(teacher_).first(indices.size() * classes);
  batch.taught = taught_;
}

namespace {

constexpr double kDivergedLoss = 1e12;
constexpr float kLargeInput = 100;  // far from what weights are drawn for

[[noreturn]] void refuse_divergence(const std::string& what, const data::Dataset& dataset,
                                    std::span<const uint32_t> samples, const FitResult& result,
                                    const StepOptions& options) {
  const float largest = data::largest_input(dataset, samples);
  fail("train", "training diverged: ", what, " after ", result.steps, " steps at learning rate ",
       options.lr, "; ",
       largest > kLargeInput
           ? concat("the inputs reach ", largest, ": scale them to about 1, or lower train.lr")
           : std::string("lower train.lr or set train.clip_norm"));
}

}  // namespace

FitResult FlatTrainer::fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                           const StepOptions& options, const FitHooks& hooks, Key key) {
  check(dataset);
  if (samples.empty()) fail("train/fit", "expected at least one training sample, got none");
  const data::Augmentation augmentation{options.crop_padding, options.flip, options.cutout};
  data::check_augmentation(dataset, augmentation);
  check_loss(hooks);
  {
    const MemoryScope scope(MemoryUse::kWeights);
    optimizer_.start(options, weights_.size(), hooks.optimizer);
  }
  NestedNet* const nest =
      hooks.submodel == nullptr ? nullptr : &nested(*hooks.submodel, dataset, samples, key);
  Net& net = nest == nullptr ? *net_ : *nest;
  // Plain SGD with nothing between gradient and step: the net may apply it where it computes the
  // gradient.
  const bool fuse = options.optimizer == "sgd" && options.momentum == 0 && options.clip_norm == 0 &&
                    !hooks.before_step && (nest == nullptr || nest->can_fuse());
  SgdUpdate update{static_cast<float>(options.lr),
                   static_cast<float>(1 - options.lr * options.weight_decay)};
  if (!fuse || !net.reads_elsewhere()) copy_loaded();
  const std::vector<Segment>& segments = fuse ? unfused_ : trainable_;
  // A step that was fused left old values in `gradients_`, but only where the next one writes too;
  // the hooks' promise that statistics have zero gradients holds because nothing ever writes there.
  order_.assign(samples.begin(), samples.end());
  const auto batch_size = static_cast<size_t>(options.batch_size);
  const size_t used = options.drop_last ? order_.size() / batch_size * batch_size : order_.size();
  if (used == 0) {
    fail("train/fit", "train.drop_last leaves ", order_.size(), " samples without a batch of ",
         batch_size, "; lower train.batch_size or set train.drop_last = false");
  }
  const auto max_steps = static_cast<uint64_t>(options.max_steps);
  FitResult result;
  double loss = 0;
  uint64_t correct = 0;
  const auto done = [&] { return max_steps > 0 && result.steps >= max_steps; };
  for (int64_t epoch = 0; epoch < options.epochs && !done(); ++epoch) {
    Stream(key.child(Purpose::kShuffle).child(static_cast<uint64_t>(epoch)))
        .shuffle(std::span(order_));
    for (size_t begin = 0; begin < used && !done(); begin += batch_size) {
      const auto indices = std::span(order_).subspan(begin, std::min(batch_size, used - begin));
      Batch batch = gather(dataset, indices, augmentation.any() ? &augmentation : nullptr,
                           key.child(Purpose::kAugmentation).child(result.steps));
      teach(hooks, indices, batch);
      batch.key = key.child(Purpose::kDropout).child(result.steps);
      batch.step = result.steps;
      const std::shared_ptr<const ParameterSet> loaded = std::move(loaded_);
      update.from = loaded != nullptr ? loaded->values().data() : nullptr;
      const BatchSums sums = net.train(batch, weights_, gradients_, fuse ? &update : nullptr);
      if (options.clip_norm > 0) clip_norm(gradients_, segments, options.clip_norm);
      if (hooks.before_step) hooks.before_step(weights_, gradients_);
      if (const auto untouched = net.untouched(); untouched.empty()) {
        optimizer_.step(weights_, gradients_, segments);
      } else {
        optimizer_.step(weights_, gradients_, segments_of(*layout(), [&](size_t i) {
                          return std::ranges::find(untouched, i) == untouched.end();
                        }));
      }
      if (hooks.after_step) hooks.after_step(weights_);
      loss += sums.loss;
      correct += sums.correct;
      result.samples += indices.size();
      result.macs += sums.macs;
      ++result.steps;
    }
    if (!std::isfinite(loss))
      refuse_divergence("its loss is not finite", dataset, samples, result, options);
  }
  // What no aggregation would take: said here, where the cause is known.
  const double mean_loss = loss / static_cast<double>(result.samples);
  if (mean_loss > kDivergedLoss)
    refuse_divergence(concat("its loss is ", mean_loss), dataset, samples, result, options);
  result.loss = loss / static_cast<double>(result.samples);
  result.accuracy = static_cast<double>(correct) / static_cast<double>(result.samples);
  return result;
}

// A layer's running value after a batch is (1 − m)·r + m·b, with a momentum m that is the layer's
// own business; from r = 0 and from r = 1 the batch's b follows without knowing m.
NormStatistics FlatTrainer::statistics(const data::Dataset& dataset,
                                       std::span<const uint32_t> samples, size_t batch_size) {
  check(dataset);
  std::vector<ParameterInfo> tensors;
  std::vector<const ParameterInfo*> sources;
  for (const ParameterInfo& tensor : layout()->tensors()) {
    if (tensor.role != Role::kStatistic) continue;
    tensors.push_back({.name = tensor.name, .shape = tensor.shape, .role = tensor.role});
    sources.push_back(&tensor);
  }
  NormStatistics found{ParameterSet(std::make_shared<const ParameterLayout>(std::move(tensors)))};
  ParameterSet& out = found.values;
  copy_loaded();
  if (samples.empty() || out.size() == 0) return found;
  AlignedVector<float> weights = weights_;
  const auto run = [&](const Batch& batch, float start) {
    for (const ParameterInfo* source : sources)
      std::fill_n(weights.begin() + source->offset, source->size, start);
    found.macs += net_->train(batch, weights, gradients_, nullptr).macs;
    std::vector<float> after;
    for (const ParameterInfo* source : sources)
      after.insert(after.end(), weights.begin() + source->offset,
                   weights.begin() + source->offset + source->size);
    return after;
  };
  std::vector<float> held;
  for (const ParameterInfo* source : sources)
    held.insert(held.end(), weights_.begin() + source->offset,
                weights_.begin() + source->offset + source->size);
  std::vector<double> sums(out.size(), 0);
  for (size_t begin = 0; begin < samples.size(); begin += batch_size) {
    const auto part = samples.subspan(begin, std::min(batch_size, samples.size() - begin));
    const Batch batch = unaugmented(dataset, part);
    const std::vector<float> low = run(batch, 0), high = run(batch, 1);
    for (size_t i = 0; i < sums.size(); ++i) {
      const double momentum = 1 - (static_cast<double>(high[i]) - low[i]);
      // What training leaves alone is no running value and stays.
      sums[i] += static_cast<double>(part.size()) * (momentum > 0 ? low[i] / momentum : held[i]);
    }
  }
  for (size_t i = 0; i < sums.size(); ++i)
    out.values()[i] = static_cast<float>(sums[i] / static_cast<double>(samples.size()));
  // What training leaves zero must be zero again.
  std::fill(gradients_.begin(), gradients_.end(), 0.0f);
  return found;
}

void FlatTrainer::predict(const data::Dataset& dataset, std::span<const uint32_t> samples,
                          const data::Augmentation* augmentation, Key key,
                          std::span<float> features, std::span<float> logits) {
  check(dataset);
  if (samples.empty()) return;
  const std::vector<int64_t> shape = feature_shape();
  if (!features.empty() && shape.empty())
    fail("train/predict",
         "this model names no feature map; use one whose name ends in \"-client\", ",
         "or a TorchScript module that returns (features, logits)");
  size_t values = shape.empty() ? 0 : samples.size();
  for (const int64_t extent : shape) values *= static_cast<size_t>(extent);
  ESPALIER_CHECK(features.empty() || features.size() == values, features.size(), " values for ",
                 values, " of the feature maps");
  const size_t classes = net_->num_logits();
  if (!logits.empty() && logits.size() == samples.size() * static_cast<size_t>(data_.num_classes) &&
      logits.size() != samples.size() * classes) {
    fail("train/predict", "expected a model with a logit for each of ", data_.num_classes,
         " classes, got ", classes, " logits");
  }
  ESPALIER_CHECK(logits.empty() || logits.size() == samples.size() * classes, logits.size(),
                 " logits for ", samples.size(), " samples of ", classes, " logits each");
  copy_loaded();
  Batch batch = gather(dataset, samples, augmentation, key);
  batch.key = drawing_key(samples);
  net_->predict(batch, weights_, features, logits);
}

EvalSums FlatTrainer::evaluate(const data::Dataset& dataset, std::span<const uint32_t> samples) {
  check(dataset);
  if (samples.empty()) return {};
  copy_loaded();
  const Batch batch = unaugmented(dataset, samples);
  const BatchSums sums = net_->evaluate(batch, weights_);
  return {sums.loss, sums.correct, samples.size(), count_classes(batch.labels, net_->logits()),
          sums.macs};
}

}  // namespace espalier::nn
