#include "espalier/strategy/fedgkt_payloads.h"

#include <algorithm>
#include <cmath>

#include "espalier/params/parameter_set.h"

namespace espalier::strategy {

namespace fedgkt {

std::shared_ptr<const ParameterLayout> outputs_layout(size_t samples, int64_t classes) {
  const auto n = static_cast<int64_t>(samples);
  return std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{"ids", {n}, Role::kCounter},
                                 {"labels", {n}, Role::kCounter},
                                 {"logits", {n, classes}, Role::kWeight}});
}

std::shared_ptr<const ParameterLayout> answers_layout(size_t samples, int64_t classes) {
  const auto n = static_cast<int64_t>(samples);
  return std::make_shared<const ParameterLayout>(std::vector<ParameterInfo>{
      {"ids", {n}, Role::kCounter}, {"logits", {n, classes}, Role::kWeight}});
}

std::shared_ptr<const ParameterLayout> labels_layout(size_t samples) {
  return std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{"labels", {static_cast<int64_t>(samples)}, Role::kCounter}});
}

std::shared_ptr<const ParameterLayout> features_layout(size_t samples,
                                                       const std::vector<int64_t>& shape) {
  std::vector<ParameterInfo> tensors;
  tensors.reserve(samples);
  for (size_t i = 0; i < samples; ++i)
    tensors.push_back({"feature." + std::to_string(i), shape, Role::kWeight});
  return std::make_shared<const ParameterLayout>(std::move(tensors));
}

size_t num_uploaded(double sample_fraction, size_t num_samples) {
  const double wanted = std::round(sample_fraction * static_cast<double>(num_samples));
  return std::min(num_samples, std::max<size_t>(1, static_cast<size_t>(wanted)));
}

void protect(std::span<float> features, size_t size, double clip, double noise, Key key) {
  for (size_t i = 0; i * size < features.size(); ++i) {
    const auto map = features.subspan(i * size, size);
    if (clip > 0) {
      const double norm = std::sqrt(squared_norm(map));
      if (norm > clip) {
        const auto scale = static_cast<float>(clip / norm);
        for (float& value : map) value *= scale;
      }
    }
    if (noise > 0) {
      Stream stream(key.child(i));
      for (float& value : map) value += static_cast<float>(noise * stream.normal());
    }
  }
}

}  // namespace fedgkt

}  // namespace espalier::strategy
