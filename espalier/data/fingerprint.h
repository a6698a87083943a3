#pragma once

#include <cstdint>

#include "espalier/data/dataset.h"

namespace espalier::data {

// XXH3-64 of what a data set is to a run: kind, shapes, number of classes, vocabulary, every input
// and label, and who owns which sample. Where the files lie and how they are packed does not
// matter, and neither does the normalization. Equal on every machine; no protection against
// forgery. At memory speed. For sets whose values lie in memory (no `fetch`).
uint64_t fingerprint(const Dataset& dataset);

}  // namespace espalier::data
