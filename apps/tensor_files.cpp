#include "apps/tensor_files.h"

#include <cstring>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/params/safetensors.h"

namespace espalier::apps {

namespace {

bool is_float(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32 ||
         dtype == DType::kF64;
}

SafetensorsFile parse(const std::string& file) {
  Bytes bytes = read_file(file);
  try {
    return SafetensorsFile::parse(std::move(bytes), file);
  } catch (const Error& error) {
    throw Error(
        concat(error.what(), "; is it a safetensors file? float32 values alone need --raw"));
  }
}

}  // namespace

ParameterSet read_tensors(const std::string& file, std::string_view where, Integers integers) {
  const SafetensorsFile content = parse(file);
  std::vector<ParameterInfo> tensors;
  AlignedVector<float> values;
  for (const auto& [name, tensor] : content.tensors()) {
    if (!is_float(tensor.dtype)) {
      if (integers == Integers::kSkip) continue;
      if (integers == Integers::kRefuse)
        fail(where, "expected tensors of floats, got ", dtype_name(tensor.dtype), " for '", name,
             "' (", file, "); --skip-integers leaves such tensors out");
    }
    const auto part = tensor.as_float(file);
    tensors.push_back({name, tensor.shape, tensor.shape.size() < 2 ? Role::kBias : Role::kWeight});
    values.insert(values.end(), part.begin(), part.end());
  }
  if (values.empty()) fail(where, "expected at least one value, got none (", file, ")");
  return ParameterSet(std::make_shared<ParameterLayout>(std::move(tensors)), std::move(values));
}

ParameterSet read_raw(const std::string& file, std::string_view where, std::vector<int64_t> shape) {
  const Bytes bytes = read_file(file);
  if (bytes.size() % sizeof(float) != 0)
    fail(where, "expected float32 values, got ", bytes.size(), " bytes (", file, ")");
  AlignedVector<float> values(bytes.size() / sizeof(float));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  if (values.empty()) fail(where, "expected at least one value, got none (", file, ")");
  const auto count = static_cast<int64_t>(values.size());
  if (shape.empty()) shape = {count};
  auto layout =
      std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"x", std::move(shape)}});
  if (layout->size() != count)
    fail(where, "expected ", layout->size(), " values for the shape ",
         shape_text(layout->tensors()[0].shape), ", got ", count, " (", file, ")");
  return ParameterSet(std::move(layout), std::move(values));
}

}  // namespace espalier::apps
