#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/params/layout.h"

// What the two halves of FedGKT say to each other (fedgkt.h has the paper). "ids" are positions in
// the client's own list of samples, ascending; logits are raw, before any softmax. All functions
// depend on their arguments alone: any thread.
namespace espalier::strategy {

namespace fedgkt {

// Payloads and their tensors. "outputs" and the answers: counters "ids" [n] and (going up) "labels"
// [n], and the weight "logits" [n, classes]. "features": one weight "feature.i" per sample.
inline constexpr const char* kOutputs = "outputs";
inline constexpr const char* kFeatures = "features";
inline constexpr const char* kTestLabels = "test_labels";
inline constexpr const char* kTestFeatures = "test_features";
inline constexpr const char* kAnswers = "answers";
// Scalars: whether test samples are wanted (task); the client's own accuracy on them (update).
// 0: not wanted, and an update that has them all the same is refused.
inline constexpr const char* kEvaluate = "evaluate";
inline constexpr const char* kClientAccuracy = "client_accuracy";
// Of one upload, test samples included: what a message's layout may hold.
inline constexpr size_t kMaxSamples = 65536;

// Layouts for n = samples: of "outputs" and "answers", of "test_labels" (one counter "labels"
// [n]), and of "features" and "test_features" with maps of `shape`, channels × height × width.
std::shared_ptr<const ParameterLayout> outputs_layout(size_t samples, int64_t classes);
std::shared_ptr<const ParameterLayout> answers_layout(size_t samples, int64_t classes);
std::shared_ptr<const ParameterLayout> labels_layout(size_t samples);
std::shared_ptr<const ParameterLayout> features_layout(size_t samples,
                                                       const std::vector<int64_t>& shape);
// Clips each map of `size` values to the L2 norm `clip` (0: not), then adds Gaussian noise of this
// deviation (0: none), drawn from the key and the map's position.
void protect(std::span<float> features, size_t size, double clip, double noise, Key key);
// How many of `num_samples` a client uploads: at least one. round(sample_fraction·num_samples), at
// most all; 0 only of 0. Both halves ask this.
size_t num_uploaded(double sample_fraction, size_t num_samples);

}  // namespace fedgkt

}  // namespace espalier::strategy
