#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/params/parameter_set.h"

// Reader and writer of the safetensors format (https://github.com/huggingface/safetensors): u64
// header size, a JSON header, then the tensors' raw little-endian bytes. Files that this writes
// open in Python's safetensors.
namespace espalier {

enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64
};
std::string_view dtype_name(DType dtype);  // "F32"
size_t dtype_bytes(DType dtype);

// One tensor of a file; `data` points into the file's bytes.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const uint8_t> data;

  int64_t size() const;  // number of values
  // The values converted to float32 or int64; an Error when the type cannot be (bool counts as 0/1;
  // floats are not integers) or a value of U64 does not fit.
  AlignedVector<float> as_float(std::string_view where) const;
  std::vector<int64_t> as_int64(std::string_view where) const;
  // One value as it is stored, for messages; "nan" and "inf" are written so.
  std::string value_text(size_t index) const;
};

// A parsed file that owns its bytes.
class SafetensorsFile {
 public:
  // Throws Error for everything the format forbids: a header beyond 100 MB or past the end,
  // duplicate names, unknown types, offsets out of range, overlapping or with holes, a size that is
  // not shape × type.
  static SafetensorsFile parse(Bytes bytes, std::string_view where);
  static SafetensorsFile read(const std::filesystem::path& path);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorView* find(const std::string& name) const;
  // A tensor of this file as weights of a model. Throws Error also for values that are not finite.
  AlignedVector<float> weights(const std::string& name, const TensorView& tensor) const;
  const std::string& where() const { return where_; }

 private:
  Bytes bytes_;  // moved, never copied: the views stay valid
  std::string where_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// One tensor to write.
struct TensorData {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const uint8_t> data;
};

Bytes write_safetensors(const std::vector<TensorData>& tensors,
                        const std::map<std::string, std::string>& metadata);

// A model as a file: every tensor as F32 under its name; kCounter tensors as I64, as PyTorch has
// them.
Bytes write_safetensors(const ParameterSet& set,
                        const std::map<std::string, std::string>& metadata);

// A model of several parts as a file: the tensors of every set as F32, under its key and their
// name.
Bytes write_safetensors(const std::map<std::string, const ParameterSet*>& sets,
                        const std::map<std::string, std::string>& metadata);

// Fills `set` from a file that has exactly its tensors: a missing, additional or differently shaped
// tensor is an Error.
void read_parameters(const SafetensorsFile& file, ParameterSet& set);
// The same for the tensors whose names begin with `prefix`; others in the file are somebody else's.
void read_parameters(const SafetensorsFile& file, const std::string& prefix, ParameterSet& set);

}  // namespace espalier
