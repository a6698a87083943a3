#include "dataset_fuzz.h"
#include "espalier/data/idx.h"

// First byte: flags; the next two: length of the file of images. The rest: that file, then the file
// of labels.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace espalier;
  if (size < 3) return 0;
  const data::IdxFormat format{.name = "fuzz",
                               .num_classes = (data[0] & 4) != 0 ? 26 : 10,
                               .first_label = data[0] & 1,
                               .transposed = (data[0] & 2) != 0,
                               .mean = 0.5f,
                               .stddev = 0.5f};
  const std::span<const uint8_t> files(data + 3, size - 3);
  const size_t images = std::min<size_t>(data[1] + size_t{256} * data[2], files.size());
  try {
    data::use_dataset(
        data::idx_dataset(format, files.first(images), files.subspan(images), "images", "labels"));
  } catch (const Error&) {
  }
  return 0;
}
