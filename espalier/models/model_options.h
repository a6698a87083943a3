#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/base/options.h"

namespace espalier::models {

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
  std::string gate_init = "kaiming";
  int64_t embedding = 8;
  int64_t lstm_units = 256;
  int64_t lstm_layers = 2;
  std::string file;
  std::string output;
  std::string init;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("name", self.name, Field("Architecture; `espalier list models` shows all."));
    visit("hidden", self.hidden, Field("mlp: width of each hidden layer.").at_least(1));
    visit("width", self.width,
          Field("Convolutional nets: factor on the number of channels and units.").above(0));
    visit("fc_units", self.fc_units,
          Field("cnn: units of the fully connected layer; 0: 512 times width.").at_least(0));
    visit("norm", self.norm,
          Field("resnets: normalization layers; group: groups of 8 channels, or of the largest "
                "smaller number that divides them.")
              .one_of({"batch", "group"}));
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
    visit("gate_init", self.gate_init,
          Field("gates: how they start; kaiming: weights from N(0, 2/inputs), bias 1 (ADP, FBS); "
                "open: weights 0, so that every channel counts alike for every sample and, at a "
                "ratio of 1, a \"gated\" net begins as the one without gates.")
              .one_of({"kaiming", "open"}));
    visit("embedding", self.embedding, Field("lstm: size of the token embedding.").at_least(1));
    visit("lstm_units", self.lstm_units, Field("lstm: hidden units of each layer.").at_least(1));
    visit("lstm_layers", self.lstm_layers, Field("lstm: number of layers.").at_least(1));
    visit("file", self.file, Field("torchscript: path of the scripted module.").path());
    visit("output", self.output,
          Field("torchscript: what of the module's tuple, list or dictionary the logits are: its "
                "index or key; empty: it returns them alone, or (features, logits) for FedGKT."));
    visit(
        "init", self.init,
        Field("Safetensors file with the initial weights; empty draws them from the seed.").path());
  }
};

}  // namespace espalier::models
