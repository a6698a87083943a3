#include "espalier/nn/loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "espalier/base/error.h"

namespace espalier::nn {
namespace {

// log softmax(scale · z), z[j] counting as 0 where `present` says no.
template <class Present>
void log_softmax(const float* z, double scale, Present present, std::vector<double>& out) {
  double largest = -INFINITY;
  for (size_t j = 0; j < out.size(); ++j) {
    out[j] = present(j) ? scale * static_cast<double>(z[j]) : 0.0;
    largest = std::max(largest, out[j]);
  }
  double total = 0;
  for (const double x : out) total += std::exp(x - largest);
  const double shift = largest + std::log(total);
  for (double& x : out) x -= shift;
}

}  // namespace

LossSums batch_loss(const Batch& batch, const float* logits, size_t classes, float* gradient) {
  const LossOptions& options = batch.loss;
  const auto size = static_cast<size_t>(batch.size);
  const bool distilled = !batch.teacher.empty() && options.distillation != 0;
  if (!distilled && batch.classes.empty() && options.cross_entropy == 1)
    return cross_entropy(logits, batch.labels.data(), size, classes, gradient);
  ESPALIER_CHECK(batch.teacher.empty() || batch.teacher.size() == size * classes,
                 batch.teacher.size(), " teacher logits for ", size, " samples of ", classes,
                 " classes");

  const auto all = [](size_t) { return true; };
  // Classes beyond the flags are ones that the data set does not have.
  const auto present = [&](size_t j) {
    return batch.classes.empty() || (j < batch.classes.size() && batch.classes[j] != 0);
  };
  ESPALIER_CHECK(batch.taught.empty() || batch.taught.size() == size, batch.taught.size(),
                 " flags for ", size, " samples");
  const double temperature = options.temperature, per_sample = 1 / static_cast<double>(size);
  std::vector<double> student(classes), teacher(classes), slope(classes);
  LossSums sums{0, 0};
  for (size_t n = 0; n < size; ++n) {
    const float* z = logits + n * classes;
    const auto label = static_cast<size_t>(batch.labels[n]);
    sums.correct += std::max_element(z, z + classes) == z + label ? 1 : 0;

    log_softmax(z, 1, present, student);
    sums.loss -= options.cross_entropy * student[label];
    for (size_t j = 0; j < classes; ++j) {
      const double target = j == label ? 1 : 0;
      slope[j] = present(j) ? options.cross_entropy * (std::exp(student[j]) - target) : 0;
    }
    if (distilled && (batch.taught.empty() || batch.taught[n] != 0)) {
      log_softmax(z, 1 / temperature, all, student);
      log_softmax(batch.teacher.data() + n * classes, 1 / temperature, all, teacher);
      double divergence = 0;
      for (size_t j = 0; j < classes; ++j) {
        const double q = std::exp(teacher[j]);
        if (q > 0) divergence += q * (teacher[j] - student[j]);
        slope[j] += options.distillation * temperature * (std::exp(student[j]) - q);
      }
      sums.loss += options.distillation * temperature * temperature * divergence;
    }
    if (gradient == nullptr) continue;
    for (size_t j = 0; j < classes; ++j)
      gradient[n * classes + j] = static_cast<float>(slope[j] * per_sample);
  }
  return sums;
}

}  // namespace espalier::nn
