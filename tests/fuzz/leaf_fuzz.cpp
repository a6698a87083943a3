#include "dataset_fuzz.h"
#include "espalier/data/leaf.h"

// The file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace espalier;
  try {
    data::LeafUsers users;
    data::Dataset dataset;
    dataset.name = "fuzz";
    data::append_leaf({data, size}, "fuzz", users, dataset);
    dataset.client_names = users.names;
    dataset.mean = dataset.stddev = {0.5f};
    data::use_dataset(dataset);
  } catch (const Error&) {
  }
  return 0;
}
