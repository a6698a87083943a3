#include "espalier/data/fingerprint.h"

#include <xxhash.h>

#include <memory>

#include "espalier/base/error.h"

namespace espalier::data {

uint64_t fingerprint(const Dataset& dataset) {
  ESPALIER_CHECK(!dataset.fetch);
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  ESPALIER_CHECK(state != nullptr && XXH3_64bits_reset(state.get()) == XXH_OK);
  // Sizes go before contents, so that no two sets run into the same bytes.
  const auto add = [&](const auto& values) {
    const uint64_t count = values.size();
    XXH3_64bits_update(state.get(), &count, sizeof(count));
    if (count > 0) XXH3_64bits_update(state.get(), values.data(), count * sizeof(values[0]));
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
  return XXH3_64bits_digest(state.get());
}

}  // namespace espalier::data
