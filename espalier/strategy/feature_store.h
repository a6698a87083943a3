#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "espalier/base/byte_source.h"
#include "espalier/base/bytes.h"
#include "espalier/codec/codec.h"
#include "espalier/strategy/spill_file.h"

namespace espalier::strategy {

// Whose feature maps: one client's, of its training or of its test samples.
struct FeatureKey {
  uint64_t client = 0;
  bool test = false;
  friend auto operator<=>(const FeatureKey&, const FeatureKey&) = default;
};

// Feature maps of many clients, kept as they arrived: encoded, one message per client, one tensor
// per sample. A sample is decoded when it is asked for. What exceeds the memory limit lies in one
// file of which only the asked-for sample's bytes are read; it has no name any more, so the system
// frees it however the process ends.
//
// Memory: the messages up to the limit, and about 200 bytes per sample. Reading gives the same
// values wherever a message lies.
//
// put() may be called by many threads; fetch(), shape and sizes by many threads while nobody puts,
// erases or clears.
class FeatureStore {
 public:
  // `codec` made the messages and outlives this. memory_limit_bytes: of encoded messages; 0 is no
  // limit. `folder`: for files; empty is the system's temporary folder.
  FeatureStore(const codec::Codec& codec, uint64_t memory_limit_bytes,
               std::filesystem::path folder);
  ~FeatureStore();
  FeatureStore(const FeatureStore&) = delete;
  FeatureStore& operator=(const FeatureStore&) = delete;

  // A message of which every sample decodes.
  struct Checked {
    codec::MessageIndex index;
    std::shared_ptr<const Bytes> message;
  };
  // Throws Error for a message that is not of this layout, does not decode, or has a value of a
  // magnitude above `max_magnitude`. Any thread at any time.
  Checked check(std::shared_ptr<const Bytes> message,
                const std::shared_ptr<const ParameterLayout>& layout, float max_magnitude) const;
  // Keeps the message in place of what the key had. Throws StorageError when the disk fails; then
  // nothing has changed.
  void put(FeatureKey key, Checked checked);
  // Nothing happens for a key that has nothing.
  void erase(FeatureKey key);
  void clear();

  // One sample's values, in the order of its tensor; out: as many as it has. The key must have a
  // message. Throws StorageError when its file cannot be read.
  void fetch(FeatureKey key, size_t sample, std::span<float> out) const;
  // The message as it arrived, read where it lies; empty when there is none. Valid until the key is
  // put or erased, or all is cleared.
  ByteSource message(FeatureKey key) const;

  // Of one key's message, which must be there.
  uint64_t size_bytes(FeatureKey key) const;
  // Of all messages, by where they lie.
  uint64_t memory_bytes() const { return memory_bytes_; }
  uint64_t disk_bytes() const { return disk_bytes_; }

 private:
  struct Entry;
  using Entries = std::map<FeatureKey, std::unique_ptr<Entry>>;
  const Entry& entry(FeatureKey key) const;
  void drop(Entries::iterator entry);

  const codec::Codec& codec_;
  uint64_t limit_;
  std::filesystem::path folder_;
  std::mutex mutex_;
  std::unique_ptr<SpillFile> file_;  // made when something spills first
  Entries entries_;
  uint64_t memory_bytes_ = 0, disk_bytes_ = 0;
};

}  // namespace espalier::strategy
