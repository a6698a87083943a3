// What FedGKT's server accepts of a client.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/strategy/fedgkt.h"

namespace espalier::strategy {

namespace {

constexpr const char* kWhere = "strategy/fedgkt";
// No honest feature or logit is near it, and squares and sums of what is below stay finite.
constexpr float kMaxMagnitude = 1e6f;

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// Whole numbers of [0, limit) that travelled as floats.
template <class T>
std::vector<T> whole_numbers(std::span<const float> values, double limit, const char* what) {
  std::vector<T> out;
  out.reserve(values.size());
  for (const float value : values) {
    if (!(value >= 0 && static_cast<double>(value) < limit) || value != std::floor(value))
      fail(kWhere, "expected ", what, " of 0 to ", limit - 1, ", got ", value);
    out.push_back(static_cast<T>(value));
  }
  return out;
}

const Payload* find(const Update& update, const char* name) {
  for (const Payload& payload : update.payloads) {
    if (payload.name == name) return &payload;
  }
  return nullptr;
}

}  // namespace

int64_t FedGkt::max_values(const ParameterLayout& layout, double) const {
  // Uploads stay encoded: what is declared here is checked before anything is allocated for it.
  return std::max(layout.size(), static_cast<int64_t>(fedgkt::kMaxSamples) *
                                     (product(feature_shape_) + setup_.data.num_classes + 2));
}

void FedGkt::check(const RoundInfo&, const ParameterLayout&, double num_samples,
                   const Update& update) const {
  if (!(num_samples >= 1)) fail(kWhere, "an update of a client without samples");
  const size_t n = fedgkt::num_uploaded(options_.sample_fraction, static_cast<size_t>(num_samples));
  const auto expect = [&](const char* name, const auto& layout) {
    const Payload* payload = find(update, name);
    if (payload == nullptr) fail(kWhere, "the update has no payload '", name, "'");
    if (payload->encoded == nullptr || !(*payload->layout == *layout))
      fail(kWhere, "payload '", name, "' has another layout than that of ",
           layout->tensors().size(), " tensors, first ", shape_text(layout->tensors()[0].shape));
  };
  expect(fedgkt::kOutputs, fedgkt::outputs_layout(n, setup_.data.num_classes));
  expect(fedgkt::kFeatures, fedgkt::features_layout(n, feature_shape_));
  size_t payloads = 2;
  if (const Payload* labels = find(update, fedgkt::kTestLabels)) {
    const int64_t size = labels->layout->size();
    if (size < 1 || size > static_cast<int64_t>(fedgkt::kMaxSamples) ||
        (options_.test_samples > 0 && size > options_.test_samples)) {
      fail(kWhere, "an update with ", size, " test samples");
    }
    const auto m = static_cast<size_t>(size);
    expect(fedgkt::kTestLabels, fedgkt::labels_layout(m));
    expect(fedgkt::kTestFeatures, fedgkt::features_layout(m, feature_shape_));
    payloads += 2;
  }
  if (update.payloads.size() != payloads)
    fail(kWhere, "expected ", payloads, " payloads, got ", update.payloads.size());
}

FedGkt::Upload FedGkt::read_upload(const RoundInfo& round, const Update& update) const {
  const auto decode = [&](const Payload& payload) {
    ParameterSet values(payload.layout);
    setup_.uplink->decode(*payload.encoded, values);
    return values;
  };
  const auto classes = static_cast<double>(setup_.data.num_classes);
  const ParameterSet outputs = decode(*find(update, fedgkt::kOutputs));
  Upload upload;
  upload.ids = whole_numbers<uint32_t>(outputs.values("ids"), update.num_samples, "a sample");
  if (std::ranges::adjacent_find(upload.ids, std::greater_equal<>()) != upload.ids.end())
    fail(kWhere, "expected samples in ascending order, each once");
  upload.labels = whole_numbers<int32_t>(outputs.values("labels"), classes, "a label");
  const auto logits = outputs.values("logits");
  for (const float value : logits) {
    if (!(std::abs(value) <= kMaxMagnitude))
      fail(kWhere, "a logit of ", value, " exceeds the limit of ", kMaxMagnitude);
  }
  upload.logits.assign(logits.begin(), logits.end());
  if (const Payload* labels = find(update, fedgkt::kTestLabels)) {
    if (!round.evaluates) fail(kWhere, "test samples in a round that does not evaluate");
    upload.test_labels = whole_numbers<int32_t>(decode(*labels).values(), classes, "a label");
    upload.client_accuracy = update.scalar(fedgkt::kClientAccuracy);
    if (!(upload.client_accuracy >= 0 && upload.client_accuracy <= 1))
      fail(kWhere, "expected an accuracy, got ", upload.client_accuracy);
  }
  return upload;
}

void FedGkt::accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                        RoundSums& sums) {
  Upload upload = read_upload(round, update);
  const auto check = [&](const char* name) {
    const Payload& payload = *find(update, name);
    return features_->check(payload.encoded, payload.layout, kMaxMagnitude);
  };
  FeatureStore::Checked training = check(fedgkt::kFeatures), test;
  if (!upload.test_labels.empty()) test = check(fedgkt::kTestFeatures);
  // The sums keep the scalars and refuse who has answered already.
  Update scalars;
  scalars.num_samples = update.num_samples;
  scalars.scalars = update.scalars;
  sums.add(client, scalars);
  features_->put({client, false}, std::move(training));
  if (!upload.test_labels.empty()) features_->put({client, true}, std::move(test));
  const std::lock_guard lock(mutex_);
  uploads_[client] = std::move(upload);
}

}  // namespace espalier::strategy
