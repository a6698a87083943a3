#include "espalier/data/synthetic.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"

namespace espalier::data {

namespace {

// Children of the data set's key; the values are part of what a seed means.
enum : uint64_t { kTrain = 1, kTest = 2, kPrototypes = 3, kClients = 4, kPopularity = 5 };

constexpr float kImageRange = 4;  // deviations on either side of the middle gray

class Generator {
 public:
  Generator(const DataOptions& options, Key key) : options_(options), key_(key) {
    size_t values = 1;
    for (const int64_t dimension : options.synthetic_shape) {
      if (dimension < 1 || values * static_cast<size_t>(dimension) > (size_t{1} << 24)) {
        fail("data/synthetic", "expected a shape of at most 2^24 values, got ",
             shape_text(options.synthetic_shape));
      }
      values *= static_cast<size_t>(dimension);
    }
    if (options.synthetic_shape.empty()) fail("data/synthetic", "expected a shape, got []");
    values_ = values;
    image_ = options.synthetic_shape.size() == 3;
    if (options.synthetic_clients > 0)
      make_popularity();
    else
      make_prototypes();
  }

  Dataset make(Key part, size_t count) const {
    Dataset dataset;
    dataset.name = "synthetic";
    dataset.kind = image_ ? Kind::kImage : Kind::kFloat;
    dataset.sample_shape = options_.synthetic_shape;
    dataset.num_classes = options_.synthetic_classes;
    dataset.labels.resize(count);
    if (image_) {
      const auto channels = static_cast<size_t>(options_.synthetic_shape[0]);
      dataset.pixels.resize(count * values_);
      dataset.mean.assign(channels, 0.5f);
      dataset.stddev.assign(channels, 0.5f / kImageRange);
    } else {
      dataset.floats.resize(count * values_);
    }
    if (popularity_.empty())
      fill_from_prototypes(part, dataset);
    else
      fill_from_clients(part, dataset);
    return dataset;
  }

 private:
  void make_prototypes() {
    const auto classes = static_cast<size_t>(options_.synthetic_classes);
    if (classes * values_ > (size_t{1} << 28)) {
      fail("data/synthetic", "expected classes × values of at most 2^28, got ", classes, " × ",
           values_);
    }
    prototypes_.resize(classes * values_);
    for (size_t c = 0; c < classes; ++c) {
      Stream stream(key_.child(kPrototypes).child(c));
      float* prototype = prototypes_.data() + c * values_;
      if (!image_) {
        for (size_t i = 0; i < values_; ++i) prototype[i] = static_cast<float>(stream.normal());
        continue;
      }
      const auto channels = static_cast<size_t>(options_.synthetic_shape[0]);
      const auto height = static_cast<size_t>(options_.synthetic_shape[1]);
      const auto width = static_cast<size_t>(options_.synthetic_shape[2]);
      const size_t block_columns = (width + 3) / 4;
      std::vector<float> blocks((height + 3) / 4 * block_columns * channels);
      for (float& value : blocks) value = static_cast<float>(stream.normal());
      for (size_t y = 0; y < height; ++y) {
        for (size_t x = 0; x < width; ++x) {
          for (size_t k = 0; k < channels; ++k) {
            prototype[(y * width + x) * channels + k] =
                blocks[((y / 4) * block_columns + x / 4) * channels + k];
          }
        }
      }
    }
    scale_ =
        static_cast<float>(1 / std::sqrt(1 + options_.synthetic_noise * options_.synthetic_noise));
  }

  void make_popularity() {
    const auto clients = static_cast<size_t>(options_.synthetic_clients);
    if (static_cast<size_t>(options_.synthetic_train_samples) < clients) {
      fail("data/synthetic", "expected synthetic_train_samples of at least synthetic_clients (",
           clients, "), got ", options_.synthetic_train_samples);
    }
    Stream stream(key_.child(kPopularity));
    double total = 0;
    for (size_t k = 0; k < clients; ++k) {
      total += std::exp(stream.normal());
      popularity_.push_back(total);
    }
    // Per input: v_k varies by 1 + β around 0, x around it by j^-1.2 (their mean over the inputs).
    double within = 0;
    for (size_t j = 0; j < values_; ++j) within += std::pow(static_cast<double>(j + 1), -1.2);
    scale_ = static_cast<float>(
        1 / std::sqrt(1 + options_.synthetic_beta + within / static_cast<double>(values_)));
  }

  void store(Dataset& dataset, size_t sample, std::span<const float> values) const {
    if (!image_) {
      std::copy(values.begin(), values.end(),
                dataset.floats.begin() + static_cast<std::ptrdiff_t>(sample * values_));
      return;
    }
    uint8_t* out = dataset.pixels.data() + sample * values_;
    for (size_t i = 0; i < values_; ++i) {
      const float gray = 127.5f + 127.5f / kImageRange * scale_ * values[i];
      out[i] = static_cast<uint8_t>(std::lround(std::clamp(gray, 0.0f, 255.0f)));
    }
  }

  void fill_from_prototypes(Key part, Dataset& dataset) const {
    std::vector<float> values(values_);
    for (size_t i = 0; i < dataset.size(); ++i) {
      Stream stream(part.child(i));
      const size_t label = stream.below(static_cast<uint64_t>(options_.synthetic_classes));
      const float* prototype = prototypes_.data() + label * values_;
      for (size_t j = 0; j < values_; ++j) {
        values[j] = prototype[j] + static_cast<float>(options_.synthetic_noise * stream.normal());
      }
      dataset.labels[i] = static_cast<int32_t>(label);
      store(dataset, i, values);
    }
  }

  // The first samples go to one client each, the others by popularity.
  uint32_t owner(Key part, size_t sample) const {
    if (sample < popularity_.size()) return static_cast<uint32_t>(sample);
    const double place = Stream(part.child(sample)).uniform() * popularity_.back();
    const auto found = std::upper_bound(popularity_.begin(), popularity_.end(), place);
    return static_cast<uint32_t>(std::min<std::ptrdiff_t>(
        found - popularity_.begin(), static_cast<std::ptrdiff_t>(popularity_.size()) - 1));
  }

  void fill_from_clients(Key part, Dataset& dataset) const {
    const auto classes = static_cast<size_t>(options_.synthetic_classes);
    for (size_t k = 0; k < popularity_.size(); ++k)
      dataset.client_names.push_back(concat("client-", k));
    dataset.client_of_sample.resize(dataset.size());
    for (size_t i = 0; i < dataset.size(); ++i) dataset.client_of_sample[i] = owner(part, i);
    std::vector<uint32_t> order(dataset.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return dataset.client_of_sample[a] < dataset.client_of_sample[b];
    });
    std::vector<float> weights(classes * values_), biases(classes), center(values_),
        values(values_);
    size_t current =
        popularity_.size();  // whose model is in `weights`: each client's is drawn once
    for (const uint32_t i : order) {
      const size_t client = dataset.client_of_sample[i];
      if (client != current) draw_client(client, weights, biases, center);
      current = client;
      Stream stream(part.child(i));
      stream.u64();  // owner() used these bits
      for (size_t j = 0; j < values_; ++j) {
        values[j] = center[j] + static_cast<float>(std::pow(static_cast<double>(j + 1), -0.6) *
                                                   stream.normal());
      }
      dataset.labels[i] = label(weights, biases, values);
      store(dataset, i, values);
    }
  }

  void draw_client(size_t client, std::vector<float>& weights, std::vector<float>& biases,
                   std::vector<float>& center) const {
    Stream stream(key_.child(kClients).child(client));
    const double model_mean = std::sqrt(options_.synthetic_alpha) * stream.normal();
    const double input_mean = std::sqrt(options_.synthetic_beta) * stream.normal();
    for (float& weight : weights) weight = static_cast<float>(model_mean + stream.normal());
    for (float& bias : biases) bias = static_cast<float>(model_mean + stream.normal());
    for (float& value : center) value = static_cast<float>(input_mean + stream.normal());
  }

  static int32_t label(const std::vector<float>& weights, const std::vector<float>& biases,
                       const std::vector<float>& values) {
    size_t best = 0;
    double best_score = -INFINITY;
    for (size_t c = 0; c < biases.size(); ++c) {
      double score = biases[c];
      for (size_t j = 0; j < values.size(); ++j)
        score += double{weights[c * values.size() + j]} * values[j];
      if (score > best_score) best = c, best_score = score;
    }
    return static_cast<int32_t>(best);
  }

  const DataOptions& options_;
  Key key_;
  size_t values_ = 0;
  bool image_ = false;
  float scale_ = 1;                 // images: 1/deviation of a value
  std::vector<float> prototypes_;   // classes × values
  std::vector<double> popularity_;  // cumulative, per client; empty without clients
};

}  // namespace

LoadedData load_synthetic(const DataOptions& options, Key key) {
  const Generator generator(options, key);
  return {generator.make(key.child(kTrain), static_cast<size_t>(options.synthetic_train_samples)),
          generator.make(key.child(kTest), static_cast<size_t>(options.synthetic_test_samples))};
}

}  // namespace espalier::data
