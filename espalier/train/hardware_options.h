#pragma once

#include <string>

#include "espalier/base/options.h"

namespace espalier::train {

// What a client trains with: decided by the machine that it runs on, never by a task. Combinations
// that a model or machine cannot do are Errors when the trainer is made (models/make_trainer.h).
struct HardwareOptions {
  // "bf16": activations, their gradients and the weights that convolutions read, on a CPU with
  // AVX-512; sums, linear layers, gradients of weights and the optimizer are fp32. Not for nets on
  // tokens, TorchScript modules or "cuda".
  std::string precision = "fp32";
  // "cuda": libtorch's autograd on a GPU; needs a program built with a libtorch that has CUDA, and
  // a GPU that it finds.
  std::string device = "cpu";

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("precision", self.precision,
          Field("Arithmetic of layers; weights are always kept in fp32.").one_of({"fp32", "bf16"}));
    visit("device", self.device, Field("Where clients train.").one_of({"cpu", "cuda"}));
  }
};

}  // namespace espalier::train
