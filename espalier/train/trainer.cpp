#include "espalier/train/trainer.h"

namespace espalier::train {

DataSpec spec_of(const data::Dataset& dataset) {
  return {dataset.kind, dataset.sample_shape, dataset.num_classes, dataset.vocabulary};
}

EvalSums& EvalSums::operator+=(const EvalSums& other) {
  loss += other.loss;
  correct += other.correct;
  count += other.count;
  return *this;
}

}  // namespace espalier::train
