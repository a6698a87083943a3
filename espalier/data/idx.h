#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/data/load.h"

// The IDX format of MNIST (LeCun, Cortes, Burges) and of the sets made in its image, EMNIST (Cohen
// et al. 2017) and Fashion-MNIST (Xiao et al. 2017): two zero bytes, a type byte (8: uint8, the
// only one here), the number of dimensions, each dimension as a big-endian u32, then the values.
// Gzipped files are unpacked on reading.
namespace espalier::data {

struct IdxArray {
  std::vector<uint32_t> shape;
  std::span<const uint8_t> values;  // points into the parsed bytes
};

// Throws Error (prefixed with `where`) on a wrong magic, another type or number of dimensions than
// `dimensions`, and when the file is shorter or longer than its shape says.
IdxArray parse_idx(std::span<const uint8_t> bytes, size_t dimensions, std::string_view where);

// How to read one set of images and labels.
struct IdxFormat {
  std::string name;
  int64_t num_classes = 10;
  int first_label = 0;      // the smallest label on disk
  bool transposed = false;  // EMNIST stores columns first
  float mean = 0, stddev = 1;
};

// From the bytes of the two files. `where_images` and `where_labels` name them in errors.
Dataset idx_dataset(const IdxFormat& format, std::span<const uint8_t> images,
                    std::span<const uint8_t> labels, std::string_view where_images,
                    std::string_view where_labels);

LoadedData load_mnist(const DataOptions& options, Key key);
LoadedData load_fashion_mnist(const DataOptions& options, Key key);
LoadedData load_emnist(const DataOptions& options, Key key);

}  // namespace espalier::data
