#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/base/options.h"

namespace espalier::train {

// What a client's optimizer steps need: the part of [train] that travels with a task, so a strategy
// may change it per client and round. What the server decides by round is in train_options.h, what
// a client's own machine decides in hardware_options.h.
struct StepOptions {
  std::string optimizer = "sgd";  // sgd, adam or adamw
  double lr = 0.05;               // of the task's round, schedules applied; above 0
  // sgd: v ← momentum·v + g, w ← w − lr·v; nesterov: w ← w − lr·(g + momentum·v). [0, 1)
  double momentum = 0;
  bool nesterov = false;
  // sgd, adam: added to the gradient times w; adamw: w ← (1 − lr·weight_decay)·w. ≥ 0
  double weight_decay = 0;
  // adam (Kingma and Ba 2015), with bias correction; amsgrad: Reddi et al. 2018.
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  bool amsgrad = false;
  // Passes over the client's samples, at least 1, cut off after so many steps; 0: not.
  int64_t epochs = 1;
  int64_t max_steps = 0;
  int64_t batch_size = 10;  // samples per step; the last batch of an epoch may be smaller
  // Leaves out an epoch's last batch when it is smaller than batch_size: another sample's every
  // epoch, for the order is drawn anew. A client with fewer samples than batch_size has no batch,
  // which is an Error.
  bool drop_last = false;
  double clip_norm = 0;  // L2 norm that the whole gradient is clipped to; 0: not
  // Random crops after padding by so many pixels, mirroring, a blanked square of this side; each
  // drawn anew for every sample and pass. 0 and false: not.
  int64_t crop_padding = 0;
  bool flip = false;
  int64_t cutout = 0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    optimizer_fields(self, visit);
    augmentation_fields(self, visit);
  }

  template <class Self, class Visitor>
  static void optimizer_fields(Self& self, Visitor&& visit) {
    visit("optimizer", self.optimizer, Field("Client optimizer.").one_of({"sgd", "adam", "adamw"}));
    visit("lr", self.lr,
          Field("Client learning rate in the first round after warm-up; rounds = 0, not 0 here, "
                "gives the initial model.")
              .above(0));
    constexpr const char* kSgd = "train.optimizer = \"sgd\"";
    constexpr const char* kAdam = "train.optimizer = \"adam\" or \"adamw\"";
    const bool sgd = self.optimizer == "sgd";
    visit("momentum", self.momentum, Field("sgd: momentum.").at_least(0).below(1).needs(sgd, kSgd));
    visit("nesterov", self.nesterov,
          Field("sgd: Nesterov's form of momentum.")
              .needs(sgd, kSgd)
              .needs(self.momentum > 0, "train.momentum above 0"));
    visit("weight_decay", self.weight_decay,
          Field("L2 penalty (sgd, adam) or decoupled decay (adamw).").at_least(0));
    visit("beta1", self.beta1,
          Field("adam: decay of the first moment.").at_least(0).below(1).needs(!sgd, kAdam));
    visit("beta2", self.beta2,
          Field("adam: decay of the second moment.").at_least(0).below(1).needs(!sgd, kAdam));
    visit("epsilon", self.epsilon,
          Field("adam: added to the denominator.").above(0).needs(!sgd, kAdam));
    visit("amsgrad", self.amsgrad,
          Field("adam: keep the largest second moment (Reddi et al. 2018).").needs(!sgd, kAdam));
    visit("epochs", self.epochs, Field("Passes over the client's samples per round.").at_least(1));
    visit("max_steps", self.max_steps,
          Field("Stop a client after this many optimizer steps; 0 is no limit.").at_least(0));
    visit("batch_size", self.batch_size,
          Field("Samples per step; the last batch of an epoch may be smaller.").at_least(1));
    visit("drop_last", self.drop_last,
          Field("Leave out the last batch of an epoch when it is smaller than batch_size."));
    visit(
        "clip_norm", self.clip_norm,
        Field("Clip the L2 norm of the loss's gradient to this, before a strategy adds proximal or "
              "control terms and before weight decay; 0 is off.")
            .at_least(0));
  }

  // How samples are varied; apart, because the order of keys in a file has the schedule before it.
  template <class Self, class Visitor>
  static void augmentation_fields(Self& self, Visitor&& visit) {
    visit("crop_padding", self.crop_padding,
          Field("Augmentation: random crop after padding by this many pixels.").at_least(0));
    visit("flip", self.flip, Field("Augmentation: mirror images left-right at random."));
    visit("cutout", self.cutout,
          Field("Augmentation: side of a square blanked at random; 0 is off.").at_least(0));
  }
};

// How a client trains a sub-model. The default trains it plainly.
struct SubmodelTraining {
  // Unit counts per group, each at most the model's own: every step draws one of them uniformly and
  // trains the first units only (FjORD, Horváth et al. 2021). Empty: always the whole model.
  std::vector<std::vector<int64_t>> widths;
  // FjORD's self-distillation: the loss of a drawn width is (1 − distillation)·CE +
  // distillation·KD(width ← widest of the list, temperature), and CE when it is the widest. 0 is
  // off.
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

}  // namespace espalier::train
