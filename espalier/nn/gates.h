#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "espalier/nn/graph.h"
#include "espalier/params/parameter_set.h"

// Gates judge for every sample which output channels of a convolution matter to it, and switch the
// others off (Gao et al. 2019, feature boosting and suppression; Yu et al. 2021, ADP). With s the
// spatial means of the convolution's input (optionally through a sigmoid),
//   g = ReLU(A s + b), of which the k = max(1, ⌊ratio·C + ½⌋) largest of the C channels survive
//   and the others become 0; of equal ones the lower channel number wins.
// Not more than k channels survive: one whose ReLU gives 0 stays 0.
//
// Mode "gated":  y = ReLU(g ⊙ norm(conv(x)) + residual)
// Mode "fbs":    y = ReLU(g ⊙ x̂ + [g > 0] ⊙ β + residual), x̂ the normalized values without scale
// and without a normalization z = conv(x) takes its place, with its bias ("gated") or β ("fbs").
// A max-pooling stands between convolution and scaling, which gives the same values as behind it
// because g is never negative: only the channels' largest values are scaled.
//
// Without a normalization a layer's output grows with the square of its input, so that a deep net
// (all-cnn) needs the sigmoid, which keeps g within A's and b's size.
//
// A channel that is 0 for a sample passes none of the sample's gradient to its filter, its
// normalization's scale and shift, or its row of the gate. In training the statistics of a
// normalization still couple samples (batch) and the channels of a group (group), as autograd has
// it: through them other samples' or channels' gradients reach the filter. Where a channel fires
// for no sample of a batch, scale, shift and gate row have gradients of exactly 0, and so has the
// filter but behind a group normalization.
//
// A gate's parameters are "<convolution>.gate.weight" and "<convolution>.gate.bias". The ratio is
// no part of the net but a counter among the model's tensors, kGateRatio, in parts per million: it
// travels and is saved with the weights, and whoever evaluates them uses their ratio.
namespace espalier::nn {

inline constexpr const char* kGateRatio = "gates.ratio_ppm";

bool has_gates(const ParameterLayout& layout);
// The share of channels that survive, none for a model without gates.
std::optional<double> gate_ratio(const ParameterSet& weights);
// Throws Error for a model without gates or a ratio outside (0, 1].
void set_gate_ratio(ParameterSet& weights, double ratio);

// k for a value of kGateRatio. What is no ratio (a NaN, more than a million) counts as 1, what is
// less than one part as one part.
int64_t salient_channels(float ratio_ppm, int64_t channels);

// A gated convolution of a graph: the convolution, its gate, and the normalization or kScale that
// applies the gate. Nothing or one max-pooling stands between convolution and kScale.
struct GatedConv {
  int conv, gate, apply;
};
std::vector<GatedConv> gated_convs(const Graph& graph);

}  // namespace espalier::nn
