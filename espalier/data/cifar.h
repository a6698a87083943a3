#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "espalier/data/load.h"

// The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of one label byte
// (CIFAR-100: coarse, then fine), then 32×32 red, green and blue values, a plane each. We store
// height × width × channels.
namespace espalier::data {

struct CifarFormat {
  size_t label_bytes = 1;  // the last one is the label that we use
  int32_t num_classes = 10;
};
inline constexpr size_t kCifarSide = 32;
inline constexpr size_t kCifarPlane = kCifarSide * kCifarSide;

// Appends the records of one file to the pixels and labels of `dataset`. Throws Error (prefixed
// with `where`) when the size is not a multiple of the record's or a label is out of range.
void append_cifar(const CifarFormat& format, std::span<const uint8_t> bytes, std::string_view where,
                  Dataset& dataset);

// One record of the CIFAR-10 layout from a pixel-interleaved image: out is 1 + 3·1024 bytes.
void write_cifar10_record(uint8_t label, std::span<const uint8_t> image, std::span<uint8_t> out);

// The files are looked for in the folder itself and in the folder that the official archive makes.
LoadedData load_cifar10(const DataOptions& options, Key key);
LoadedData load_cifar100(const DataOptions& options, Key key);

}  // namespace espalier::data
