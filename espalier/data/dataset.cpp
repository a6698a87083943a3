#include "espalier/data/dataset.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"

namespace espalier::data {

namespace {

size_t stored_values(const Dataset& dataset) {
  switch (dataset.kind) {
    case Kind::kImage:
      return dataset.pixels.size();
    case Kind::kFloat:
      return dataset.floats.size();
    case Kind::kTokens:
      return dataset.tokens.size();
  }
  return 0;
}

void check_images(const Dataset& dataset, const std::string& where) {
  if (dataset.sample_shape.size() != 3) {
    fail(where, "expected images of shape {channels, height, width}, got ",
         shape_text(dataset.sample_shape));
  }
  const auto channels = static_cast<size_t>(dataset.sample_shape[0]);
  if (dataset.mean.size() != channels || dataset.stddev.size() != channels) {
    fail(where, "expected ", channels, " means and standard deviations, got ", dataset.mean.size(),
         " and ", dataset.stddev.size());
  }
  for (size_t c = 0; c < channels; ++c) {
    if (!std::isfinite(dataset.mean[c]) || !std::isfinite(dataset.stddev[c]) ||
        dataset.stddev[c] <= 0) {
      fail(where, "the normalization of channel ", c, " is not usable: mean ", dataset.mean[c],
           ", stddev ", dataset.stddev[c]);
    }
  }
}

void check_owners(const Dataset& dataset, const std::string& where) {
  if (dataset.client_of_sample.empty()) return;
  if (dataset.client_of_sample.size() != dataset.size()) {
    fail(where, "expected an owner for each of ", dataset.size(), " samples, got ",
         dataset.client_of_sample.size());
  }
  for (const uint32_t client : dataset.client_of_sample) {
    if (client >= dataset.client_names.size()) {
      fail(where, "expected owners below ", dataset.client_names.size(), ", got ", client);
    }
  }
}

}  // namespace

size_t Dataset::sample_size() const {
  size_t values = 1;
  for (const int64_t dimension : sample_shape) values *= static_cast<size_t>(dimension);
  return values;
}

Normalization Normalization::unit(size_t channels) {
  return {std::vector<float>(channels, 0.0f), std::vector<float>(channels, 1.0f)};
}

Normalization Normalization::none(size_t channels) {
  return {std::vector<float>(channels, 0.0f), std::vector<float>(channels, 1.0f / 255.0f)};
}

void set_normalization(Dataset& images, const Normalization& normalization) {
  ESPALIER_CHECK(images.kind == Kind::kImage && normalization.mean.size() == images.mean.size(),
                 normalization.mean.size(), " channels for ", images.mean.size());
  std::vector<float> fill;
  for (size_t c = 0; c < images.mean.size(); ++c)
    fill.push_back((images.mean[c] - normalization.mean[c]) / normalization.stddev[c]);
  const bool own = std::all_of(fill.begin(), fill.end(), [](float value) { return value == 0; });
  images.fill = own ? std::vector<float>() : std::move(fill);
  images.mean = normalization.mean;
  images.stddev = normalization.stddev;
}

std::vector<uint32_t> Dataset::owners() const {
  std::vector<uint8_t> known(client_names.size(), 0);
  for (const uint32_t client : client_of_sample) known[client] = 1;
  std::vector<uint32_t> found;
  for (size_t k = 0; k < known.size(); ++k) {
    if (known[k] != 0) found.push_back(static_cast<uint32_t>(k));
  }
  return found;
}

void check_augmentation(const Dataset& dataset, const Augmentation& augmentation) {
  if (!augmentation.any() || dataset.has_images()) return;
  const bool tokens = dataset.kind == Kind::kTokens;
  fail("data/augmentation",
       "train.flip, train.cutout and train.crop_padding act on images, and the ",
       tokens ? "tokens" : "values", " of shape ", shape_text(dataset.sample_shape), " of ",
       dataset.name, " are none; leave them out, or store (samples, channels, height, width)");
}

void Dataset::validate() const {
  const std::string where = "data/" + name;
  if (labels.empty()) fail(where, "the data set has no samples");
  if (labels.size() > UINT32_MAX)
    fail(where, "expected fewer than 2^32 samples, got ", labels.size());
  if (sample_shape.empty()) fail(where, "the samples have no shape");
  size_t values = 1;
  for (const int64_t dimension : sample_shape) {
    if (dimension <= 0 || static_cast<size_t>(dimension) > (size_t{1} << 40) / values) {
      fail(where, "impossible sample shape ", shape_text(sample_shape));
    }
    values *= static_cast<size_t>(dimension);
  }
  if (fetch && (kind != Kind::kFloat || !floats.empty()))
    fail(where, "only float samples that are not stored in `floats` can be fetched");
  // A division, not a product: the product of two sizes read from a file could overflow.
  const size_t stored = stored_values(*this);
  if (!fetch && (stored % values != 0 || stored / values != labels.size())) {
    fail(where, "expected ", labels.size(), " samples of ", values, " values (one per label), got ",
         stored, " values");
  }
  if (num_classes < 1) fail(where, "expected at least one class, got ", num_classes);
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= num_classes) {
      fail(where, "expected labels in [0, ", num_classes, "), got ", labels[i], " (sample ", i,
           ")");
    }
  }
  if (kind == Kind::kImage) check_images(*this, where);
  if (kind == Kind::kTokens) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] < 0 || tokens[i] >= vocabulary) {
        fail(where, "expected tokens in [0, ", vocabulary, "), got ", tokens[i], " (sample ",
             i / values, ", position ", i % values, ")");
      }
    }
  }
  if (!fill.empty() &&
      (!has_images() || fill.size() != static_cast<size_t>(sample_shape[0]) ||
       !std::all_of(fill.begin(), fill.end(), [](float value) { return std::isfinite(value); }))) {
    fail(where, "expected a finite fill value per channel of images, got ", fill.size(),
         " values for samples of shape ", shape_text(sample_shape));
  }
  check_owners(*this, where);
}

}  // namespace espalier::data
