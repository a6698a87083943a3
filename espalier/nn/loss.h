#pragma once

#include <cstddef>

#include "espalier/nn/kernels.h"
#include "espalier/nn/net.h"

// The loss of a batch of B samples and C classes, from its logits z (B × C, row by row):
//
//   L = a · CE(z, y) + b · KD(z ← t)
//   CE = mean_b −log softmax(z_b)[y_b]
//   KD = T² · mean_b Σ_j q_bj (log q_bj − log softmax(z_b / T)_j),  q = softmax(t / T)
//   ∂KD/∂z = (T/B) (softmax(z / T) − q)
//
// with a = cross_entropy, b = distillation, T = temperature of Batch::loss and the teacher's logits
// t = Batch::teacher, which are constants. Samples that have no teacher (Batch::taught) add 0 to
// KD, whose mean stays over all B. T² keeps the gradients' size independent of T (Hinton, Vinyals,
// Dean 2015). FedGKT (He et al. 2020) uses both terms in both directions, FjORD (Horváth et al.
// 2021) as (1 − α) CE + α KD from a net's widest form to its narrower ones.
//
// Masked cross-entropy (HeteroFL, Diao et al. 2021): with Batch::classes, the logits of classes
// whose flag is 0 are replaced by 0 before CE's softmax, as HeteroFL's paper and code do; such a
// class still takes exp(0) of the sum, and the gradient of its logit is 0. KD sees all logits.
namespace espalier::nn {

// The sum over the samples of L and the number of samples whose largest (unmasked) logit is the
// label's. `gradient` (B × C; null when not wanted) receives that of the mean. Plain cross-entropy
// takes the fast path of kernels.h; everything else is computed in double.
LossSums batch_loss(const Batch& batch, const float* logits, size_t classes, float* gradient);

}  // namespace espalier::nn
