#include "espalier/strategy/feature_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "espalier/base/error.h"

namespace espalier::strategy {

namespace {

constexpr const char* kWhere = "strategy/features";

template <class... Parts>
[[noreturn]] void storage_failed(const Parts&... parts) {
  const int reason = errno;
  throw StorageError(concat("[", kWhere, "] ", parts..., ": ", std::strerror(reason),
                            "; free space there, or raise strategy.memory_limit_mb"));
}

}  // namespace

// One file without a name for all that spills, so that a run of many clients needs one descriptor.
// What is released is used again.
class FeatureStore::SpillFile {
 public:
  explicit SpillFile(const std::filesystem::path& folder) {
    try {
      path_ = (folder.empty() ? std::filesystem::temp_directory_path() : folder) /
              "espalier-features-XXXXXX";
      if (!folder.empty()) std::filesystem::create_directories(folder);
    } catch (const std::filesystem::filesystem_error& error) {
      throw StorageError(concat("[", kWhere, "] no folder for feature maps: ", error.what()));
    }
    file_ = ::mkostemp(path_.data(), O_CLOEXEC);
    if (file_ < 0) storage_failed("cannot create ", path_);
    ::unlink(path_.c_str());
  }
  ~SpillFile() { ::close(file_); }
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  // The offset at which the message now stands.
  uint64_t write(std::span<const uint8_t> message) {
    const uint64_t size = message.size();
    const auto hole = holes_.lower_bound(size);
    const uint64_t offset = hole == holes_.end() ? end_ : hole->second;
    for (uint64_t at = offset; !message.empty();) {
      const ssize_t wrote = ::pwrite(file_, message.data(), message.size(), static_cast<off_t>(at));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote <= 0) storage_failed("cannot write feature maps to ", path_);
      at += static_cast<uint64_t>(wrote);
      message = message.subspan(static_cast<size_t>(wrote));
    }
    if (hole == holes_.end()) {
      end_ += size;
    } else {
      const uint64_t left = hole->first - size;
      holes_.erase(hole);
      if (left > 0) holes_.emplace(left, offset + size);
    }
    live_ += size;
    return offset;
  }
  void release(uint64_t offset, uint64_t size) {
    holes_.emplace(size, offset);
    live_ -= size;
    if (live_ > 0) return;
    holes_.clear();
    end_ = 0;
    // Only to give the room back; the file works without.
    if (::ftruncate(file_, 0) != 0) return;
  }
  void read(uint64_t offset, std::span<uint8_t> out) const {
    while (!out.empty()) {
      const ssize_t got = ::pread(file_, out.data(), out.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got == 0) errno = EIO;  // the file is shorter than what was written
      if (got <= 0) storage_failed("feature maps kept on disk cannot be read");
      offset += static_cast<uint64_t>(got);
      out = out.subspan(static_cast<size_t>(got));
    }
  }

 private:
  std::string path_;
  int file_ = -1;
  uint64_t end_ = 0, live_ = 0;
  std::multimap<uint64_t, uint64_t> holes_;  // offsets by size
};

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
    if (!file_) file_ = std::make_unique<SpillFile>(folder_);
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

std::shared_ptr<const Bytes> FeatureStore::message(FeatureKey key) const {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return nullptr;
  if (found->second->message) return found->second->message;
  auto bytes = std::make_shared<Bytes>(found->second->size);
  file_->read(found->second->offset, *bytes);
  return bytes;
}

}  // namespace espalier::strategy
