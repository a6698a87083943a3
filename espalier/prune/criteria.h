#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/params/parameter_set.h"
#include "espalier/prune/mask.h"

// Which values are pruned. A criterion turns what is known of the model into one score per value;
// the values of the smallest scores go.
namespace espalier::prune {

// What a criterion looks at. Everything but weights and key comes from clients.
struct Evidence {
  const ParameterSet* weights = nullptr;    // the global model
  const ParameterSet* deviation = nullptr;  // mean over explorers of (w^k − w0)²
  const ParameterSet* importance =
      nullptr;  // mean over explorers and steps of the squared gradient
  // Seconds that one value of each tensor of the layout costs a training step, for "prunefl".
  const std::vector<double>* value_seconds = nullptr;
  bool robust = false;  // "deviation": guidance by median and quartiles instead of min and max
  Key key{0};           // "random"
};

enum class EvidenceKind : uint8_t { kNone, kDeviation, kImportance };

// One criterion, by name. To add one, write its function and its row in criteria.cpp.
struct CriterionRow {
  std::string name, summary;
  EvidenceKind evidence = EvidenceKind::kNone;  // what clients must explore for it
  // Anew after every optimizer step on the client, each tensor by itself, and no mask travels.
  bool every_step = false;
  // One score per value of the model's layout. Values that are no weights (statistics, counters)
  // may score anything.
  ParameterSet (*score)(const Evidence& evidence) = nullptr;
};
// deviation: AutoFLIP (Internò et al. 2024), guidance G = (D − min D)/(max D − min D) per tensor, 0
// where max = min, or (D − median)/(q75 − q25), 0 where q75 = q25 (the q-quantile of n values is
// the ⌈q·n⌉-th smallest; all in float); magnitude: |w|; random: uniform in [0, 1); prunefl: squared
// gradient per second of training time (Jiang et al. 2022); random-step: a random share of every
// tensor after every optimizer step (the random baseline of AutoFLIP's released code).
const std::vector<CriterionRow>& criterion_rows();
// An Error that names the nearest known one.
const CriterionRow& find_criterion(const std::string& name);

// The tensors that may be pruned: all trainable ones, or weights and embeddings alone.
std::vector<size_t> prunable_tensors(const ParameterLayout& layout, bool weights_only);
// ⌈fraction·n⌉, where a product within 1e-9 of an integer is that integer; an Error unless
// 0 ≤ fraction ≤ 1.
uint64_t pruned_count(double fraction, uint64_t n);

// How scores become a mask.
struct PruneRule {
  double fraction = 0.3;      // T_p: of all prunable values, pooled over tensors
  bool weights_only = false;  // biases and normalization layers are never pruned
  // A unit's incoming weights (of all tensors of role weight whose rows compute it) all get their
  // mean score, so that units go as a whole. Values that compute no unit of a group keep their own.
  bool by_unit = false;
  // At least ⌈min_keep·n⌉ of the n values of every tensor are kept, those of the highest scores
  // (the first of equals); by_unit, of a group's n units instead of the tensors that compute them.
  // 0: none.
  double min_keep = 0;
};

// The k-th smallest (1-based) of the scores of the given tensors, by selection on the bits of the
// numbers: exact, in two passes and O(1) memory beside the scores. −0 counts as +0; NaN is an
// Error.
float kth_smallest(const ParameterSet& scores, const std::vector<size_t>& tensors, uint64_t k);

// m_p = 1 if score_p > τ, else 0, where τ is the k-th smallest of all prunable scores,
// k = pruned_count(fraction, n) (0 prunes nothing). What may not be pruned is kept. Values that
// equal τ all go, so more than k do where scores are tied.
Mask choose_mask(const ParameterSet& scores, const PruneRule& rule);

// Writes +0 over exactly round(fraction·n) of the n values of every prunable tensor, drawn
// uniformly without replacement; every tensor has its own child of `key`. Fast enough for every
// optimizer step.
void zero_random(std::span<float> values, const ParameterLayout& layout, double fraction,
                 bool weights_only, Key key);

// AutoFLIP's agreement score (docs/algorithms/autoflip.md has the formula). Spearman's rank
// correlation of two equally long lists, mean ranks for ties; 0 when one of them is constant.
double rank_correlation(std::span<const float> a, std::span<const float> b);
// The weight of every explorer: the mean of its correlations with the others, not below 0, scaled
// so that the weights' mean is 1; all 1 when no two agree or there is one. samples[k]: D^k at the
// same coordinates.
std::vector<double> agreement_weights(const std::vector<std::vector<float>>& samples);

// Sparsity by round, from 0 at round `begin` − 1 to `final` at round `end` (Zhu and Gupta 2017:
// s = s_f·(1 − (1 − t)³)); begin = end is one shot.
double gradual_sparsity(double final, uint32_t begin, uint32_t end, uint32_t round);

}  // namespace espalier::prune
