#include "espalier/strategy/explorer_store.h"

#include <vector>

#include "espalier/base/error.h"

namespace espalier::strategy {

void ExplorerStore::put(uint64_t client, std::span<const float> values) {
  ESPALIER_CHECK(values.size() == size_, values.size(), " values instead of ", size_);
  const std::lock_guard lock(mutex_);
  const uint64_t offset =
      file_.write({reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()});
  const auto [place, fresh] = offsets_.emplace(client, offset);
  if (fresh) return;
  file_.release(place->second, values.size_bytes());
  place->second = offset;
}

void ExplorerStore::for_each(
    const std::function<void(uint64_t, std::span<const float>)>& fn) const {
  std::vector<float> values(size_);
  for (const auto& [client, offset] : offsets_) {
    file_.read(offset, {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(float)});
    fn(client, values);
  }
}

}  // namespace espalier::strategy
