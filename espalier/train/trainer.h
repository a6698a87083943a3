#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/data/dataset.h"
#include "espalier/params/parameter_set.h"

// A Trainer is one replica of a model that a worker owns and reuses: weights are loaded into it, it
// fits them to a client's samples, and they are stored back. This header is free of libtorch, so
// strategies, rounds and tests need not compile it.
namespace espalier::train {

// [train]: how a client trains. Also the part of a task that travels, so a strategy may change it
// per client and round.
struct TrainOptions {
  std::string optimizer = "sgd";
  double lr = 0.05;
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  bool amsgrad = false;
  int64_t epochs = 1;
  int64_t max_steps = 0;
  int64_t batch_size = 10;
  double clip_norm = 0;
  std::string lr_schedule = "constant";
  double lr_decay = 1.0;
  int64_t lr_step_rounds = 1;
  int64_t lr_warmup_rounds = 0;
  int64_t crop_padding = 0;
  bool flip = false;
  int64_t cutout = 0;
  std::string precision = "fp32";
  std::string device = "cpu";

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("optimizer", self.optimizer, Field("Client optimizer.").one_of({"sgd", "adam", "adamw"}));
    visit("lr", self.lr, Field("Client learning rate in the first round after warm-up.").above(0));
    visit("momentum", self.momentum, Field("sgd: momentum.").at_least(0).below(1));
    visit("nesterov", self.nesterov, Field("sgd: Nesterov's form of momentum."));
    visit("weight_decay", self.weight_decay,
          Field("L2 penalty (sgd, adam) or decoupled decay (adamw).").at_least(0));
    visit("beta1", self.beta1, Field("adam: decay of the first moment.").at_least(0).below(1));
    visit("beta2", self.beta2, Field("adam: decay of the second moment.").at_least(0).below(1));
    visit("epsilon", self.epsilon, Field("adam: added to the denominator.").above(0));
    visit("amsgrad", self.amsgrad,
          Field("adam: keep the largest second moment (Reddi et al. 2018)."));
    visit("epochs", self.epochs, Field("Passes over the client's samples per round.").at_least(1));
    visit("max_steps", self.max_steps,
          Field("Stop a client after this many optimizer steps; 0 is no limit.").at_least(0));
    visit("batch_size", self.batch_size,
          Field("Samples per step; the last batch of an epoch may be smaller.").at_least(1));
    visit("clip_norm", self.clip_norm,
          Field("Clip the gradient's L2 norm to this; 0 is off.").at_least(0));
    visit("lr_schedule", self.lr_schedule,
          Field("Client learning rate by round: constant, lr·lr_decay^(round/lr_step_rounds), or a "
                "cosine to 0.")
              .one_of({"constant", "step", "cosine"}));
    visit("lr_decay", self.lr_decay, Field("step: factor.").above(0).at_most(1));
    visit("lr_step_rounds", self.lr_step_rounds,
          Field("step: rounds between two factors.").at_least(1));
    visit("lr_warmup_rounds", self.lr_warmup_rounds,
          Field("Rounds in which the rate rises linearly to lr.").at_least(0));
    visit("crop_padding", self.crop_padding,
          Field("Augmentation: random crop after padding by this many pixels.").at_least(0));
    visit("flip", self.flip, Field("Augmentation: mirror images left-right at random."));
    visit("cutout", self.cutout,
          Field("Augmentation: side of a square blanked at random; 0 is off.").at_least(0));
    visit("precision", self.precision,
          Field("Arithmetic of layers; weights are always kept in fp32.").one_of({"fp32", "bf16"}));
    visit("device", self.device, Field("Where clients train.").one_of({"cpu", "cuda"}));
  }
};

// The learning rate of a round (0-based) of a run of `num_rounds`, with warm-up and schedule
// applied.
double lr_at_round(const TrainOptions& options, int64_t round, int64_t num_rounds);

// [model]
struct ModelOptions {
  std::string name = "cnn";
  std::vector<int64_t> hidden = {64};
  double width = 1.0;
  int64_t fc_units = 0;
  std::string norm = "batch";
  std::string gates = "none";
  double gate_ratio = 0.7;
  bool gate_sigmoid = false;
  double gate_l1 = 0;
  int64_t embedding = 8;
  int64_t lstm_units = 256;
  int64_t lstm_layers = 2;
  std::string file;
  std::string init;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("name", self.name, Field("Architecture; `espalier list models` shows all."));
    visit("hidden", self.hidden, Field("mlp: width of each hidden layer.").at_least(1));
    visit("width", self.width,
          Field("Convolutional nets: factor on the number of channels and units.").above(0));
    visit("fc_units", self.fc_units,
          Field("cnn: units of the fully connected layer; 0: 512 times width.").at_least(0));
    visit("norm", self.norm, Field("resnet: normalization layers.").one_of({"batch", "group"}));
    visit("gates", self.gates,
          Field("Convolutional nets: judge the channels of each sample (see ADP); \"gated\" scales "
                "normalized channels, \"fbs\" is Gao et al. 2019.")
              .one_of({"none", "gated", "fbs"}));
    visit("gate_ratio", self.gate_ratio,
          Field("gates: share of each convolution's channels that survive.").above(0).at_most(1));
    visit("gate_sigmoid", self.gate_sigmoid,
          Field("gates: pass the spatial means through a sigmoid first."));
    visit("gate_l1", self.gate_l1,
          Field("gates = \"fbs\": weight of the L1 penalty on surviving gate values.").at_least(0));
    visit("embedding", self.embedding, Field("lstm: size of the token embedding.").at_least(1));
    visit("lstm_units", self.lstm_units, Field("lstm: hidden units of each layer.").at_least(1));
    visit("lstm_layers", self.lstm_layers, Field("lstm: number of layers.").at_least(1));
    visit("file", self.file, Field("torchscript: path of the scripted module."));
    visit("init", self.init,
          Field("Safetensors file with the initial weights; empty draws them from the seed."));
  }
};

// What a model must know of the data.
struct DataSpec {
  data::Kind kind = data::Kind::kImage;
  std::vector<int64_t> sample_shape;
  int64_t num_classes = 0;
  int64_t vocabulary = 0;
};
DataSpec spec_of(const data::Dataset& dataset);

// How a client trains a sub-model. The default trains it plainly.
struct SubmodelTraining {
  // Unit counts per group, each at most the model's own: every step draws one of them uniformly and
  // trains the first units only (FjORD, Horváth et al. 2021). Empty: always the whole model.
  std::vector<std::vector<int64_t>> widths;
  // FjORD's self-distillation: the loss of a drawn width is (1 − distillation)·CE +
  // distillation·KD(width ← widest of the list, temperature), and CE when it is the widest (loss.h,
  // nested_net.h). 0 is off.
  double distillation = 0;
  double temperature = 1;
  // HeteroFL's scaler: outputs of hidden layers are multiplied by this while training, which is 1
  // over the keep ratio. 1 is off.
  double scale = 1;
  // HeteroFL's masked cross-entropy: logits of classes that the client has no samples of count as
  // 0.
  bool masked_cross_entropy = false;
  // HeteroFL's static batch norm: training normalizes by the batch and keeps no running statistics.
  bool static_statistics = false;

  friend bool operator==(const SubmodelTraining&, const SubmodelTraining&) = default;
};

// Weights of the terms of a batch's loss (loss.h): cross_entropy·CE + distillation·KD(student ←
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
  // Multiply-accumulates of all passes; a backward pass counts as two forward ones. Narrower widths
  // count as what they are, a teacher's forward pass is in it.
  uint64_t macs = 0;
};

// Sums, so that batches evaluated by different workers are added in a fixed order.
struct EvalSums {
  double loss = 0;
  uint64_t correct = 0;
  uint64_t count = 0;
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
  // aside); libtorch allocates activations as it goes, so for its models (lstm, torchscript, device
  // "cuda") they are missing and this is a lower bound. For training without SubmodelTraining's
  // narrower widths, which add theirs. The default counts weights and gradients.
  virtual uint64_t training_bytes(int64_t batch_size, const TrainOptions& options) const {
    static_cast<void>(batch_size);
    static_cast<void>(options);
    return 2 * static_cast<uint64_t>(layout()->size()) * sizeof(float);
  }

  virtual void load(const ParameterSet& weights) = 0;
  virtual void store(ParameterSet& weights) const = 0;

  // Trains the loaded weights on the given samples of `dataset`: `options.epochs` passes in an
  // order drawn from `key`, at the learning rate options.lr (schedules are applied by the caller).
  // Throws Error when the loss is not finite, when hooks.submodel or hooks.optimizer do not fit the
  // model, or when hooks.submodel distills and the hooks have a teacher or a loss of their own.
  virtual FitResult fit(const data::Dataset& dataset, std::span<const uint32_t> samples,
                        const TrainOptions& options, const FitHooks& hooks, Key key) = 0;

  // The normalization layers' statistics of the loaded weights over the samples, the mean over
  // their batches: a set of the layout's tensors of role kStatistic alone. The weights stay as they
  // are.
  virtual ParameterSet statistics(const data::Dataset& dataset, std::span<const uint32_t> samples,
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
  // samples × classes; an empty span is not wanted. Only the extractor runs when no logits are.
  // `augmentation` as in training, that of a sample drawn from `key` and its position; null: none.
  // Throws Error for features of a model that names none.
  virtual void predict(const data::Dataset& dataset, std::span<const uint32_t> samples,
                       const data::Augmentation* augmentation, Key key, std::span<float> features,
                       std::span<float> logits) = 0;

  // Loss and correct predictions of the given samples, as one batch, without training.
  virtual EvalSums evaluate(const data::Dataset& dataset, std::span<const uint32_t> samples) = 0;
};

// `precision` is "fp32" or "bf16", `device` "cpu" or "cuda". `units`, when not empty, makes the
// same model with units[g] units in each group g of its layout. Throws Error for an unknown model,
// one that does not fit the data, units that do not fit the model, or a device that is not there.
std::unique_ptr<Trainer> make_trainer(const ModelOptions& model, const DataSpec& data,
                                      const std::string& precision, const std::string& device,
                                      std::span<const int64_t> units = {});

// The model's layout with its unit groups, without making a replica: what a client must know of a
// model of which it holds a part.
std::shared_ptr<const ParameterLayout> model_layout(const ModelOptions& model,
                                                    const DataSpec& data);

// Names and one-line descriptions for `espalier list models`.
struct ModelRow {
  std::string name, summary;
};
const std::vector<ModelRow>& model_rows();

// To be called once at the start of a program: one thread per BLAS and per operator (clients run in
// parallel instead), and a heap that keeps its pages.
void configure_process();
// To be called in every thread that uses a Trainer.
void configure_thread();

}  // namespace espalier::train
