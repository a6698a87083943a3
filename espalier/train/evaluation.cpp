#include "espalier/train/evaluation.h"

#include <algorithm>
#include <numeric>

namespace espalier::train {

std::vector<uint32_t> all_samples(size_t count) {
  std::vector<uint32_t> all(count);
  std::iota(all.begin(), all.end(), uint32_t{0});
  return all;
}

EvalSums evaluate(Trainer& trainer, const data::Dataset& dataset, std::span<const uint32_t> samples,
                  size_t batch_size) {
  EvalSums sums;
  for (size_t begin = 0; begin < samples.size(); begin += batch_size) {
    sums += trainer.evaluate(dataset,
                             samples.subspan(begin, std::min(batch_size, samples.size() - begin)));
  }
  return sums;
}

}  // namespace espalier::train
