#pragma once

#include <span>
#include <string>

#include "espalier/base/options.h"
#include "espalier/train/evaluation.h"

// What an evaluation found out about single classes, as every command and file writes it.
namespace espalier::run {

// Adds to `out`, each key after `prefix`, nothing when `classes` is empty:
//   balanced_accuracy  mean over the classes of the share of their samples that are found
//   never_found        classes of which no sample is found, at most 20 of them
//   num_never_found    how many there are
//   recall             {"0": share of class 0 that is found, …}, for at most 100 classes
void add_class_figures(std::span<const train::ClassCount> classes, const std::string& prefix,
                       Json& out);
// The same keys of an object that has them, renamed from one prefix to another.
void copy_class_figures(const Json& from, const std::string& old_prefix, const std::string& prefix,
                        Json& out);

}  // namespace espalier::run
