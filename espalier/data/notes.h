#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "espalier/data/dataset.h"

// What a person should hear about data that can be used and may not be meant: data that look like a
// mistake in a file, and data that make a figure say less than it seems to. One line each,
// beginning with "[data] "; `espalier data info` and the start of a run show the same ones.
namespace espalier::data {

// Appends what the two parts show, as they are used (limits applied): test classes without training
// samples and the reverse, a class that is nearly all of the training samples, images that look
// channels-last, float inputs that look like pixels or are far from 1, test samples that occur in
// training. Costs a pass over the labels and looks at some thousand samples, whatever their number.
void add_notes(const Dataset& train, const Dataset& test, std::vector<std::string>& notes);

// "class 3", "classes 1, 4 and 7", "12 of 40 classes (0, 3, 4, 6, 8, …)".
std::string class_list(std::span<const int64_t> classes, int64_t num_classes);

// How many of the test samples examined are training samples as well, bit by bit. At most some
// thousand of each part are looked at, evenly spread, so with larger parts `found` is a lower
// bound.
struct Overlap {
  size_t examined = 0, found = 0;
  bool complete = true;  // all samples of both parts were looked at
  double seen = 1;       // share of the training samples that were
  // Examined test samples that equal another one: inputs of few values repeat without being copied.
  size_t repeated = 0;
};
Overlap find_overlap(const Dataset& train, const Dataset& test);

}  // namespace espalier::data
