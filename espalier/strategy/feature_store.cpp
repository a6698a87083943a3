#include "espalier/strategy/feature_store.h"

#include <cmath>

#include "espalier/base/error.h"

namespace espalier::strategy {

namespace {

constexpr const char* kWhere = "strategy/features";
constexpr const char* kWhat = "feature maps";
constexpr const char* kAdvice = "raise strategy.memory_limit_mb";

}  // namespace

struct FeatureStore::Entry {
  codec::MessageIndex index;
  uint64_t size = 0;
  std::shared_ptr<const Bytes> message;  // null: in the file
  uint64_t offset = 0;                   // there
};

FeatureStore::FeatureStore(const codec::Codec& codec, uint64_t memory_limit_bytes,
                           std::filesystem::path folder)
    : codec_(codec), limit_(memory_limit_bytes), folder_(std::move(folder)) {}

FeatureStore::~FeatureStore() = default;

FeatureStore::Checked FeatureStore::check(std::shared_ptr<const Bytes> message,
                                          const std::shared_ptr<const ParameterLayout>& layout,
                                          float max_magnitude) const {
  Checked checked{codec_.index(*message, layout), std::move(message)};
  AlignedVector<float> values;
  for (size_t t = 0; t < checked.index.num_tensors(); ++t) {
    const auto& range = checked.index.range(t);
    values.resize(static_cast<size_t>(layout->tensors()[t].size));
    codec_.decode_tensor(checked.index, t,
                         std::span(*checked.message).subspan(range.offset, range.size), values);
    for (const float value : values) {
      if (!(std::abs(value) <= max_magnitude))
        fail(kWhere, "a feature of ", value, " in sample ", t, " exceeds the limit of ",
             max_magnitude);
    }
  }
  return checked;
}

void FeatureStore::put(FeatureKey key, Checked checked) {
  auto entry = std::make_unique<Entry>();
  entry->index = std::move(checked.index);
  entry->size = checked.message->size();
  const std::lock_guard lock(mutex_);
  const auto held = entries_.find(key);
  const uint64_t freed = held != entries_.end() && held->second->message ? held->second->size : 0;
  if (limit_ == 0 || memory_bytes_ - freed + entry->size <= limit_) {
    entry->message = std::move(checked.message);
  } else {
    if (!file_) file_ = std::make_unique<SpillFile>(folder_, kWhat, kAdvice);
    entry->offset = file_->write(*checked.message);
  }
  if (held != entries_.end()) drop(held);
  (entry->message ? memory_bytes_ : disk_bytes_) += entry->size;
  entries_[key] = std::move(entry);
}

void FeatureStore::drop(Entries::iterator entry) {
  const Entry& held = *entry->second;
  (held.message ? memory_bytes_ : disk_bytes_) -= held.size;
  if (!held.message) file_->release(held.offset, held.size);
  entries_.erase(entry);
}

void FeatureStore::erase(FeatureKey key) {
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(key); found != entries_.end()) drop(found);
}

void FeatureStore::clear() {
  const std::lock_guard lock(mutex_);
  while (!entries_.empty()) drop(entries_.begin());
}

const FeatureStore::Entry& FeatureStore::entry(FeatureKey key) const {
  const auto found = entries_.find(key);
  ESPALIER_CHECK(found != entries_.end(), "no features of client ", key.client);
  return *found->second;
}

void FeatureStore::fetch(FeatureKey key, size_t sample, std::span<float> out) const {
  const Entry& held = entry(key);
  const auto& range = held.index.range(sample);
  if (held.message) {
    codec_.decode_tensor(held.index, sample,
                         std::span(*held.message).subspan(range.offset, range.size), out);
    return;
  }
  Bytes bytes(range.size);
  file_->read(held.offset + range.offset, bytes);
  codec_.decode_tensor(held.index, sample, bytes, out);
}

uint64_t FeatureStore::size_bytes(FeatureKey key) const { return entry(key).size; }

ByteSource FeatureStore::message(FeatureKey key) const {
  ByteSource message;
  const auto found = entries_.find(key);
  if (found == entries_.end()) return message;
  const Entry& held = *found->second;
  if (held.message) {
    message.append(held.message);
  } else {
    message.append_read(held.size,
                        [this, at = held.offset](uint64_t offset, std::span<uint8_t> out) {
                          file_->read(at + offset, out);
                        });
  }
  return message;
}

}  // namespace espalier::strategy
