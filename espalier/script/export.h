#pragma once

#include <filesystem>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/models/exported_model.h"
#include "espalier/models/make_trainer.h"
#include "espalier/params/parameter_set.h"

// A trained model as a file that PyTorch runs without Espalier: torch.jit.load(file)(x).
namespace espalier::script {

using namespace models;

// A TorchScript module (libtorch's zip archive) with the weights, as bytes.
//
// Its forward takes a batch and returns the logits (batch × classes) that our engine computes:
// images as float NCHW, normalized; vectors as batch × features; token sequences as batch × length
// of int64. (A user's own module returns what it always returned; where that is more than logits,
// "output" below says which part they are.) Its state_dict has our tensors
// under our names. It is saved in evaluation mode; after .train() batch normalization uses and
// updates its statistics as PyTorch's does, so the file can be trained further, by PyTorch or as
// our model "torchscript".
//
// The archive's extra file "espalier.json" says what it is: model, kind of data, sample shape,
// classes, vocabulary, normalization and units. The same model gives the same bytes.
//
// `weights` has the layout of make_trainer(model, data, …, units). Throws Error when it has not,
// or when the model is unknown or cannot be written.
Bytes torchscript_archive(const ExportedModel& model, const ParameterSet& weights);

// Writes it, whole or not at all. Throws Error also when the file cannot be written.
void export_torchscript(const ExportedModel& model, const ParameterSet& weights,
                        const std::filesystem::path& file);

}  // namespace espalier::script
