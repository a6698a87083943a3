#include "espalier/prune/criteria.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/named_rows.h"
#include "espalier/base/simd.h"
#include "espalier/prune/select.h"

namespace espalier::prune {
namespace {

constexpr std::string_view kWhere = "prune/criteria";

ESPALIER_KERNEL void squash(const float* __restrict x, float low, float width,
                            float* __restrict out, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = (x[i] - low) / width;
}

float quantile(std::span<const float> values, double q) {
  return kth_smallest(values, std::max<uint64_t>(1, pruned_count(q, values.size())));
}

ParameterSet score_deviation(const Evidence& evidence) {
  ESPALIER_CHECK(evidence.deviation != nullptr);
  const ParameterSet& deviation = *evidence.deviation;
  ParameterSet scores(deviation.shared_layout());
  for (const ParameterInfo& tensor : deviation.layout().tensors()) {
    if (tensor.size == 0 || !is_trainable(tensor.role)) continue;
    const auto d = deviation.values(tensor);
    float center, width;
    if (evidence.robust) {
      center = quantile(d, 0.5);
      width = quantile(d, 0.75) - quantile(d, 0.25);
    } else {
      const auto [least, most] = std::minmax_element(d.begin(), d.end());
      center = *least;
      width = *most - *least;
    }
    if (width != 0) squash(d.data(), center, width, scores.values(tensor).data(), d.size());
  }
  return scores;
}

ParameterSet score_magnitude(const Evidence& evidence) {
  ESPALIER_CHECK(evidence.weights != nullptr);
  ParameterSet scores(evidence.weights->shared_layout());
  const auto from = evidence.weights->values();
  std::transform(from.begin(), from.end(), scores.values().begin(),
                 [](float w) { return std::fabs(w); });
  return scores;
}

ParameterSet score_random(const Evidence& evidence) {
  ESPALIER_CHECK(evidence.weights != nullptr);
  ParameterSet scores(evidence.weights->shared_layout());
  const auto& tensors = scores.layout().tensors();
  for (size_t t = 0; t < tensors.size(); ++t) {
    Stream stream(evidence.key.child(t));
    for (float& score : scores.values(tensors[t])) score = stream.uniform_float();
  }
  return scores;
}

ParameterSet score_prunefl(const Evidence& evidence) {
  ESPALIER_CHECK(evidence.importance != nullptr && evidence.value_seconds != nullptr);
  const ParameterSet& importance = *evidence.importance;
  const auto& tensors = importance.layout().tensors();
  const std::vector<double>& seconds = *evidence.value_seconds;
  ESPALIER_CHECK(seconds.size() == tensors.size(), seconds.size(), " of ", tensors.size());
  ParameterSet scores(importance.shared_layout());
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (!is_trainable(tensors[t].role)) continue;
    if (!(seconds[t] > 0) || !std::isfinite(seconds[t])) {
      fail(kWhere, "expected a positive time per value of ", tensors[t].name, ", got ", seconds[t]);
    }
    const auto from = importance.values(tensors[t]);
    std::transform(from.begin(), from.end(), scores.values(tensors[t]).begin(), [&](float g) {
      return static_cast<float>(static_cast<double>(g) / seconds[t]);
    });
  }
  return scores;
}

// The mean ranks of a list, from 1.
std::vector<double> ranks_of(std::span<const float> values) {
  std::vector<uint32_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) {
    if (std::isnan(values[i])) fail(kWhere, "expected numbers to rank, got NaN");
    order[i] = static_cast<uint32_t>(i);
  }
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double mean = static_cast<double>(begin + end + 1) / 2;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = mean;
  }
  return ranks;
}

// Of two lists of ranks, whose mean is (n + 1)/2 whatever the ties.
double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const double mean = (static_cast<double>(a.size()) + 1) / 2;
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean) * (b[i] - mean);
    aa += (a[i] - mean) * (a[i] - mean);
    bb += (b[i] - mean) * (b[i] - mean);
  }
  return aa == 0 || bb == 0 ? 0 : std::clamp(ab / std::sqrt(aa * bb), -1.0, 1.0);
}

}  // namespace

const std::vector<CriterionRow>& criterion_rows() {
  static const std::vector<CriterionRow> rows = {
      {.name = "deviation",
       .summary = "how little clients' exploration moved a value (AutoFLIP)",
       .evidence = EvidenceKind::kDeviation,
       .score = score_deviation},
      {.name = "magnitude", .summary = "the smallest weights", .score = score_magnitude},
      {.name = "random", .summary = "values drawn once", .score = score_random},
      {.name = "prunefl",
       .summary = "squared gradient per second of training time (PruneFL)",
       .evidence = EvidenceKind::kImportance,
       .score = score_prunefl},
      {.name = "random-step",
       .summary = "values of every tensor drawn anew after every optimizer step",
       .every_step = true,
       .score = score_random},
  };
  return rows;
}

const CriterionRow& find_criterion(const std::string& name) {
  return find_row(criterion_rows(), name, kWhere, "pruning criterion");
}

double rank_correlation(std::span<const float> a, std::span<const float> b) {
  ESPALIER_CHECK(a.size() == b.size(), a.size(), " and ", b.size());
  return correlation(ranks_of(a), ranks_of(b));
}

std::vector<double> agreement_weights(const std::vector<std::vector<float>>& samples) {
  const size_t count = samples.size();
  std::vector<std::vector<double>> ranks;
  for (const auto& sample : samples) {
    ESPALIER_CHECK(sample.size() == samples[0].size(), sample.size());
    ranks.push_back(ranks_of(sample));
  }
  std::vector<double> weights(count, 0.0);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = i + 1; j < count; ++j) {
      const double agreement = correlation(ranks[i], ranks[j]);
      weights[i] += agreement;
      weights[j] += agreement;
    }
  }
  double total = 0;
  for (double& weight : weights) total += weight = std::max(weight, 0.0);
  for (double& weight : weights)
    weight = total > 0 ? weight * static_cast<double>(count) / total : 1.0;
  return weights;
}

double gradual_sparsity(double final, uint32_t begin, uint32_t end, uint32_t round) {
  ESPALIER_CHECK(begin <= end, begin, " ", end);
  if (round >= end) return final;
  if (round < begin) return 0;
  // From round begin − 1, where it is 0.
  const double t =
      (static_cast<double>(round - begin) + 1) / (static_cast<double>(end - begin) + 1);
  return final * (1 - std::pow(1 - t, 3));
}

}  // namespace espalier::prune
