#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/data/dataset.h"
#include "espalier/params/parameter_set.h"
#include "espalier/train/fixed_tensors.h"
#include "espalier/train/step_options.h"

// The contract between federated algorithms and whatever trains a model: no model, no engine, no
// library is named here. A Trainer is one replica of a model that a worker owns and reuses: weights
// are loaded into it, it fits them to a client's samples, and they are stored back.
namespace espalier::train {

// What a model must know of the data.
struct DataSpec {
  data::Kind kind = data::Kind::kImage;
  std::vector<int64_t> sample_shape;
  int64_t num_classes = 0;
  int64_t vocabulary = 0;
};
DataSpec spec_of(const data::Dataset& dataset);

// Weights of the terms of a batch's loss: cross_entropy·CE + distillation·KD(student ←
// teacher, temperature). Plain cross-entropy by default.
struct LossOptions {
  double cross_entropy = 1;
  double distillation = 0;  // counts only for samples with a teacher
  double temperature = 1;   // of the distillation; above 0

  friend bool operator==(const LossOptions&, const LossOptions&) = default;
};

// What an optimizer remembers from step to step. Buffers are as long as the model's layout and in
// its order; those that it does not use are empty, and all are before the first step.
struct OptimizerState {
  uint64_t steps = 0;
  // Momentum or first moment, second moment, amsgrad's largest second moment.
  AlignedVector<float> first, second, largest;

  friend bool operator==(const OptimizerState&, const OptimizerState&) = default;
};

// Called around every optimizer step, on the replica's flat buffers in layout order (statistics and
// counters included; their gradients are 0). Null is not called.
struct FitHooks {
  std::function<void(std::span<const float> weights, std::span<float> gradients)> before_step;
  std::function<void(std::span<float> weights)> after_step;
  const SubmodelTraining* submodel = nullptr;  // null: trained plainly
  // Distillation: the teacher's logits for a sample of the data set (num_classes values, valid
  // until the next call), or null for a sample that has none and keeps its cross-entropy alone.
  // Means are over the whole batch, taught or not.
  std::function<const float*(uint32_t sample)> teacher;
  LossOptions loss;
  // The optimizer goes on from here and leaves its state here, also when fit throws; null: it
  // starts anew.
  OptimizerState* optimizer = nullptr;
};

struct FitResult {
  double loss = 0;      // mean training loss per sample seen
  double accuracy = 0;  // of the training predictions, same average
  uint64_t steps = 0;
  uint64_t samples = 0;  // seen, all epochs together
  // Multiply-accumulates of all passes as the engine executed them: forward, gradients of weights,
  // gradients of inputs where somebody wants them; elementwise work is not counted. Narrower widths
  // count as what they are, a teacher's forward pass is in it. (libtorch's passes are counted from
  // shapes.)
  uint64_t macs = 0;
};

// What the normalization layers see of samples: a set of the layout's tensors of role kStatistic
// alone, and the multiply-accumulates that it took.
struct NormStatistics {
  ParameterSet values;
  uint64_t macs = 0;
};

// How many samples of a class were evaluated, and how many of them are predicted as such.
struct ClassCount {
  int32_t label = 0;
  uint64_t count = 0, correct = 0;

  friend bool operator==(const ClassCount&, const ClassCount&) = default;
};

// Sums, so that batches evaluated by different workers are added in a fixed order.
struct EvalSums {
  double loss = 0;
  uint64_t correct = 0;
  uint64_t count = 0;
  // The same counts by class, ascending, for the classes that occur; empty when nobody has told
  // them apart. As long as the samples or the classes, whichever are fewer.
  std::vector<ClassCount> classes = {};
  uint64_t macs = 0;  // multiply-accumulates, as executed; 0 where nobody counts them

  EvalSums& operator+=(const EvalSums& other);
};

// Not thread-safe: one worker, one Trainer.
class Trainer {
 public:
  virtual ~Trainer() = default;
  Trainer() = default;
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  virtual const std::shared_ptr<const ParameterLayout>& layout() const = 0;
  // Fresh initial weights, a function of the key alone.
  virtual void initialize(Key key, ParameterSet& out) = 0;
  // Multiply-accumulates of one sample's forward pass, counted from the layers' shapes.
  virtual uint64_t macs_per_sample() const = 0;

  // Bytes of the buffers that a replica needs to train in batches of this size: weights,
  // gradients, the optimizer's state, activations with their gradients and working memory, and the
  // batch itself. Exact for the nets of the explicit engine (the program's code and small objects
  // aside); libtorch allocates activations as it goes, so for what it trains (torchscript, device
  // "cuda") they are missing and this is a lower bound. For training without SubmodelTraining's
  // narrower widths, which add theirs. The default counts weights and gradients.
  virtual uint64_t training_bytes(int64_t batch_size, const StepOptions& options) const {
    static_cast<void>(batch_size);
    static_cast<void>(options);
    return 2 * static_cast<uint64_t>(layout()->size()) * sizeof(float);
  }

  // What the model has besides the tensors of its layout, which are all that is trained and sent.
  virtual const FixedTensors& fixed() const {
    static const FixedTensors none;
    return none;
  }
  // Whether only running the model shows which batches it can do (rehearsal.h): one that somebody
  // else wrote.
  virtual bool opaque() const { return false; }

  virtual void load(const ParameterSet& weights) = 0;
  // The same of weights that stay as they are: a trainer may read them where they lie.
  virtual void load_shared(const std::shared_ptr<const ParameterSet>& weights) { load(*weights); }
  virtual void store(ParameterSet& weights) const = 0;
  // The same values where they lie, in the layout's order, valid until anything else is called.
  // Empty: they lie in no such buffer.
  virtual std::span<const float> weights() const { return {}; }

  // Trains the loaded weights on the given samples of `dataset`: `options.epochs` passes in an
  // order drawn from `key`, at the learning rate options.lr (schedules are applied by the caller).
  // Throws Error when the loss is not finite, when options.drop_last leaves no batch, when
  // hooks.submodel or hooks.optimizer do not fit the model, or when hooks.submodel distills and the
  // hooks have a teacher or a loss of their own.
  virtual FitResult fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                        const StepOptions& options, const FitHooks& hooks, Key key) = 0;

  // The normalization layers' statistics of the loaded weights over the samples, the mean over
  // their batches. The weights stay as they are.
  virtual NormStatistics statistics(const data::Dataset& dataset, std::span<const uint32_t> samples,
                                    size_t batch_size) = 0;

  // What the model sends on when it is cut in two (FedGKT's extractor and classifier): the shape of
  // one sample's feature map, channels × height × width for images. Empty: the model names no such
  // place.
  virtual std::vector<int64_t> feature_shape() const { return {}; }
  // Indices of the layout's tensors that compute the feature map, ascending. (Not always the first
  // ones: TorchScript modules list all parameters before all buffers.)
  virtual std::vector<size_t> extractor_tensors() const { return {}; }
  // Outputs in evaluation mode for the samples as one batch, in one forward pass. `features`:
  // samples × feature map (channel by channel, row by row, as Dataset::floats has them), `logits`:
  // samples × num_logits(), an empty span is not wanted. Only the extractor runs when no logits
  // are. `augmentation` as in training, that of a sample drawn from `key` and its position; null:
  // none. Throws Error for features of a model that names none.
  virtual void predict(const data::Dataset& dataset, std::span<const uint32_t> samples,
                       const data::Augmentation* augmentation, Key key, std::span<float> features,
                       std::span<float> logits) = 0;

  // Logits of a sample, at least one for every class of the data; 0: as many as it has.
  virtual size_t num_logits() const { return 0; }

  // Loss and correct predictions of the given samples, also by class, as one batch, without
  // training.
  virtual EvalSums evaluate(const data::Dataset& dataset, std::span<const uint32_t> samples) = 0;
  // The same of any number of samples, `batch_size` ≥ 1 at a time; the sums are added in the
  // samples' order. Without samples all sums are 0.
  virtual EvalSums evaluate_all(const data::Dataset& dataset, std::span<const uint32_t> samples,
                                size_t batch_size);
};

}  // namespace espalier::train
