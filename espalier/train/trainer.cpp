#include "espalier/train/trainer.h"

#include <algorithm>

namespace espalier::train {

DataSpec spec_of(const data::Dataset& dataset) {
  return {dataset.kind, dataset.sample_shape, dataset.num_classes, dataset.vocabulary};
}

EvalSums& EvalSums::operator+=(const EvalSums& other) {
  loss += other.loss;
  correct += other.correct;
  count += other.count;
  macs += other.macs;
  if (classes.empty()) {
    classes = other.classes;
    return *this;
  }
  std::vector<ClassCount> both;
  both.reserve(std::max(classes.size(), other.classes.size()));
  auto a = classes.begin();
  for (const ClassCount& b : other.classes) {
    while (a != classes.end() && a->label < b.label) both.push_back(*a++);
    both.push_back(b);
    if (a == classes.end() || a->label != b.label) continue;
    both.back().count += a->count;
    both.back().correct += a->correct;
    ++a;
  }
  both.insert(both.end(), a, classes.end());
  classes = std::move(both);
  return *this;
}

EvalSums Trainer::evaluate_all(const data::Dataset& dataset, std::span<const uint32_t> samples,
                               size_t batch_size) {
  EvalSums sums;
  for (size_t begin = 0; begin < samples.size(); begin += batch_size) {
    sums += evaluate(dataset, samples.subspan(begin, std::min(batch_size, samples.size() - begin)));
  }
  return sums;
}

}  // namespace espalier::train
