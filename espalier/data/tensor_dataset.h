#pragma once

#include <string>

#include "espalier/data/load.h"
#include "espalier/params/safetensors.h"

// A user's own data as two safetensors files, train.safetensors and test.safetensors, each with the
// tensors
//   inputs   uint8 (samples, channels, height, width): images; floating point (samples, …): values
//   as they are;
//            integers (samples, length): token sequences
//   labels   integers (samples)
//   client   integers (samples), optional: the owner of each sample, any numbers
// The number of classes and the vocabulary are the largest id of both files plus one, or the
// metadata entries "num_classes" and "vocabulary". Images are normalized by the mean and deviation
// of the training pixels per channel.
namespace espalier::data {

// Both parts, with notes on what was guessed (class numbers without samples, tables that are read
// as tokens). Throws Error, prefixed with the file, for a missing tensor, a wrong type or shape,
// counts that disagree, and, with their place, values that are not finite and ids that are negative
// or absurd.
LoadedData tensor_datasets(const SafetensorsFile& train, const SafetensorsFile& test);

LoadedData load_safetensors(const DataOptions& options, Key key);

// What messages call samples of a kind: "uint8 images", "values", "tokens".
const char* kind_name(Kind kind);

// Per-channel mean and deviation of the pixels/255 of `train`, given to both parts; a constant
// channel has deviation 1.
void normalize_by_training_pixels(Dataset& train, Dataset& test);

}  // namespace espalier::data
