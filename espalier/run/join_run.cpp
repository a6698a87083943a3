#include "espalier/run/join_run.h"

#include "espalier/base/error.h"
#include "espalier/data/tensor_dataset.h"

namespace espalier::run {

namespace fs = std::filesystem;

data::LoadedData load_shard(const fs::path& folder) {
  const fs::path train = folder / "train.safetensors", test = folder / "test.safetensors";
  if (!fs::exists(train))
    fail("join", "expected ", train.string(),
         "; `espalier data export` writes such folders, and docs/data.md says what is in them");
  const bool has_test = fs::exists(test);
  const SafetensorsFile first = SafetensorsFile::read(train);
  data::LoadedData loaded =
      data::tensor_datasets(first, has_test ? SafetensorsFile::read(test) : first);
  if (!has_test) {
    data::Dataset empty;
    empty.name = loaded.train.name;
    empty.kind = loaded.train.kind;
    empty.sample_shape = loaded.train.sample_shape;
    empty.num_classes = loaded.train.num_classes;
    empty.vocabulary = loaded.train.vocabulary;
    loaded.test = std::move(empty);
  }
  return loaded;
}

}  // namespace espalier::run
