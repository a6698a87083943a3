#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/data/values.h"
#include "espalier/params/parameter_set.h"

namespace espalier::data {

enum class Kind : uint8_t {
  kImage,   // uint8 pixels, height × width × channels per sample
  kFloat,   // float32 values of any shape
  kTokens,  // int32 token ids, one sequence per sample
};

// How pixels become inputs, per channel: (pixel/255 − mean)/stddev. It belongs to the model: what
// was trained with one is of no use with another.
struct Normalization {
  std::vector<float> mean, stddev;
  // x = pixel/255, and x = pixel (exactly).
  static Normalization unit(size_t channels);
  static Normalization none(size_t channels);
};

// Labeled samples, immutable once built and shared by every worker. Images stay uint8 in memory; a
// batch is gathered, augmented and normalized in one pass. Any number of threads may read.
struct Dataset {
  std::string name;
  Kind kind = Kind::kImage;
  // Images: {channels, height, width} (as models see it; the storage order is height × width ×
  // channels). Float: any shape. Tokens: {sequence length}.
  std::vector<int64_t> sample_shape;
  int64_t num_classes = 0;
  int64_t vocabulary = 0;  // tokens only: ids are in [0, vocabulary)

  Values<uint8_t> pixels;  // kImage
  Values<float> floats;    // kFloat
  // kFloat without `floats`: writes one sample's values, in the order that they would have there,
  // when a batch is gathered (samples that are stored encoded). Called by every thread that
  // gathers.
  std::function<void(uint32_t sample, std::span<float> out)> fetch;
  Values<int32_t> tokens;       // kTokens
  std::vector<int32_t> labels;  // one per sample, in [0, num_classes)

  // Images: x = (pixel/255 − mean)/stddev per channel, computed as pixel·(1/(255·stddev)) −
  // mean/stddev.
  std::vector<float> mean, stddev;
  // Images that are not normalized by their own mean: the mean of each channel over the training
  // samples as a net reads it, with which augmentation fills (what 0 is to pixels that are). Empty:
  // 0.
  std::vector<float> fill;

  // The owner of each sample where the data set has natural clients (empty otherwise), as an index
  // into client_names.
  std::vector<uint32_t> client_of_sample;
  std::vector<std::string> client_names;

  size_t size() const { return labels.size(); }
  size_t sample_size() const;  // values per sample
  // uint8 images, or float32 samples of shape {channels, height, width}.
  bool has_images() const { return kind != Kind::kTokens && sample_shape.size() == 3; }
  // The owners that have samples here, each once, ascending: the clients of a natural partition.
  std::vector<uint32_t> owners() const;
  // Throws Error when a count, label or token is out of range; loaders call it last.
  void validate() const;
};

// The training and test parts of one data set.
struct DataSource {
  std::shared_ptr<const Dataset> train, test;
  // What was guessed of the files or looks like a mistake, for a person: one line each.
  std::vector<std::string> notes = {};
};

// Random changes of training images; all off by default. Pixels that come from nowhere have their
// channel's mean over the training samples: Dataset::fill, or 0 where there is none.
struct Augmentation {
  int64_t crop_padding = 0;  // pad by this many pixels, then crop back at a random place
  bool flip = false;         // mirror left-right with probability 1/2
  int64_t cutout = 0;        // side of a square that is blanked at a random place
  bool any() const { return crop_padding > 0 || flip || cutout > 0; }
};

// Normalizes uint8 images so instead of by their own mean and deviation, which decide what
// augmentation fills with (Dataset::fill).
void set_normalization(Dataset& images, const Normalization& normalization);

// Throws Error when it is asked of samples that are no images.
void check_augmentation(const Dataset& dataset, const Augmentation& augmentation);

// Writes the samples `indices` as one batch of normalized float32 in channels-last order (batch ×
// height × width × channels for images, batch × sample otherwise; float images stay channel by
// channel). out: indices.size() · sample_size() values. The augmentation of a sample depends only
// on `key` and its position in `indices`, and is the same for pixels and float images; null means
// none.
void gather(const Dataset& dataset, std::span<const uint32_t> indices,
            const Augmentation* augmentation, Key key, std::span<float> out);
// The largest magnitude among the values of these samples as a net reads them; 0 for tokens.
float largest_input(const Dataset& dataset, std::span<const uint32_t> samples);
// Token ids (kTokens) and labels as the int64 that the trainer wants.
void gather_tokens(const Dataset& dataset, std::span<const uint32_t> indices,
                   std::span<int64_t> out);
void gather_labels(const Dataset& dataset, std::span<const uint32_t> indices,
                   std::span<int64_t> out);

}  // namespace espalier::data
