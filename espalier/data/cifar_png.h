#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"

namespace espalier::data {

// CIFAR-10's binary layout from a lossless PNG that holds one image per row (1024 pixels wide,
// RGB), as some packages carry it, and one label per row. Throws Error when the PNG cannot be read
// or its size does not fit the labels.
Bytes cifar10_from_png(const std::filesystem::path& png, std::span<const uint8_t> labels);

// A JSON list of whole numbers in [0, 10).
std::vector<uint8_t> read_cifar10_labels(const std::filesystem::path& json);

}  // namespace espalier::data
