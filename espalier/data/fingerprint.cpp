#include "espalier/data/fingerprint.h"

#include "espalier/base/digest.h"
#include "espalier/base/error.h"

namespace espalier::data {

namespace {

std::span<const uint8_t> as_bytes(const void* data, size_t size) {
  return {static_cast<const uint8_t*>(data), size};
}

}  // namespace

uint64_t fingerprint(const Dataset& dataset) {
  ESPALIER_CHECK(!dataset.fetch);
  Digest digest;
  // Sizes go before contents, so that no two sets run into the same bytes.
  const auto add = [&](const auto& values) {
    const uint64_t count = values.size();
    digest.update(as_bytes(&count, sizeof(count)));
    digest.update(as_bytes(values.data(), count * sizeof(values[0])));
  };
  const std::vector<int64_t> numbers = {static_cast<int64_t>(dataset.kind), dataset.num_classes,
                                        dataset.vocabulary};
  add(numbers);
  add(dataset.sample_shape);
  add(dataset.pixels);
  add(dataset.floats);
  add(dataset.tokens);
  add(dataset.labels);
  add(dataset.client_of_sample);
  for (const std::string& name : dataset.client_names) add(name);
  return digest.value();
}

}  // namespace espalier::data
