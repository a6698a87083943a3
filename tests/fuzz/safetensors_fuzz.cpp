#include "dataset_fuzz.h"
#include "espalier/data/tensor_dataset.h"
#include "espalier/params/safetensors.h"

// The file: parsed, every tensor converted, then read as a data set.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace espalier;
  try {
    const auto file = SafetensorsFile::parse(Bytes(data, data + size), "fuzz");
    for (const auto& entry : file.tensors()) {
      const TensorView& tensor = entry.second;
      const auto attempt = [](auto&& convert) {
        try {
          static_cast<void>(convert());
        } catch (const Error&) {
        }
      };
      attempt([&] { return tensor.as_float("fuzz"); });
      attempt([&] { return tensor.as_int64("fuzz"); });
    }
    data::use_dataset(data::tensor_datasets(file, file).train);
  } catch (const Error&) {
  }
  return 0;
}
