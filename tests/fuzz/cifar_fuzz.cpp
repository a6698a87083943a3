#include "dataset_fuzz.h"
#include "espalier/data/cifar.h"

// First byte: which of the two formats. The rest: the file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace espalier;
  if (size == 0) return 0;
  const bool hundred = (data[0] & 1) != 0;
  data::Dataset dataset;
  dataset.name = "fuzz";
  dataset.num_classes = hundred ? 100 : 10;
  dataset.sample_shape = {3, data::kCifarSide, data::kCifarSide};
  dataset.mean = dataset.stddev = {0.5f, 0.5f, 0.5f};
  try {
    data::append_cifar({hundred ? size_t{2} : size_t{1}, hundred ? 100 : 10}, {data + 1, size - 1},
                       "fuzz", dataset);
    data::use_dataset(dataset);
  } catch (const Error&) {
  }
  return 0;
}
