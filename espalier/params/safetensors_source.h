#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/base/byte_source.h"
#include "espalier/params/safetensors.h"

// Safetensors files with tensors that are too long to be held: what safetensors.h does for bytes in
// memory, piece by piece.
namespace espalier {

// One tensor of a file, wherever its bytes lie: size(data) = shape × type.
struct TensorSource {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  ByteSource data;
};

// The bytes of write_safetensors() for the same tensors in the same order. Only the header is held.
ByteSource safetensors_source(const std::vector<std::pair<std::string, TensorSource>>& tensors,
                              const std::map<std::string, std::string>& metadata);

// A file of which only the header was read.
struct SafetensorsSource {
  std::map<std::string, TensorSource> tensors;  // parts of the file
  std::map<std::string, std::string> metadata;
};
// Throws Error for everything the format forbids, as SafetensorsFile::parse; `where` names the file
// in messages.
SafetensorsSource parse_safetensors(const ByteSource& file, std::string_view where);

// What a header says, for who has the tensors' bytes at hand.
struct SafetensorsHeader {
  struct Tensor {
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;  // in the file
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};
SafetensorsHeader read_safetensors_header(const ByteSource& file, std::string_view where);

}  // namespace espalier
