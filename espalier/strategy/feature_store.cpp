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

struct FeatureStore::Entry {
  codec::MessageIndex index;
  uint64_t size = 0;
  std::shared_ptr<const Bytes> message;  // null: in the file
  int file = -1;

  ~Entry() {
    if (file >= 0) ::close(file);
  }
  void read(uint64_t offset, std::span<uint8_t> out) const {
    while (!out.empty()) {
      const ssize_t got = ::pread(file, out.data(), out.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got == 0) errno = EIO;  // the file is shorter than what was written
      if (got <= 0) storage_failed("feature maps kept on disk cannot be read");
      offset += static_cast<uint64_t>(got);
      out = out.subspan(static_cast<size_t>(got));
    }
  }
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
    entry->file = write_file(*checked.message);
  }
  if (held != entries_.end()) drop(held);
  (entry->message ? memory_bytes_ : disk_bytes_) += entry->size;
  entries_[key] = std::move(entry);
}

int FeatureStore::write_file(std::span<const uint8_t> message) const {
  std::string path;
  try {
    path = (folder_.empty() ? std::filesystem::temp_directory_path() : folder_) /
           "espalier-features-XXXXXX";
    if (!folder_.empty()) std::filesystem::create_directories(folder_);
  } catch (const std::filesystem::filesystem_error& error) {
    throw StorageError(concat("[", kWhere, "] no folder for feature maps: ", error.what()));
  }
  const int file = ::mkostemp(path.data(), O_CLOEXEC);
  if (file < 0) storage_failed("cannot create ", path);
  ::unlink(path.c_str());
  while (!message.empty()) {
    const ssize_t wrote = ::write(file, message.data(), message.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) {
      const int reason = errno;
      ::close(file);
      errno = reason;
      storage_failed("cannot write feature maps to ", path);
    }
    message = message.subspan(static_cast<size_t>(wrote));
  }
  return file;
}

void FeatureStore::drop(Entries::iterator entry) {
  (entry->second->message ? memory_bytes_ : disk_bytes_) -= entry->second->size;
  entries_.erase(entry);
}

void FeatureStore::erase(FeatureKey key) {
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(key); found != entries_.end()) drop(found);
}

void FeatureStore::clear() {
  const std::lock_guard lock(mutex_);
  entries_.clear();
  memory_bytes_ = disk_bytes_ = 0;
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
  held.read(range.offset, bytes);
  codec_.decode_tensor(held.index, sample, bytes, out);
}

uint64_t FeatureStore::size_bytes(FeatureKey key) const { return entry(key).size; }

std::shared_ptr<const Bytes> FeatureStore::message(FeatureKey key) const {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return nullptr;
  if (found->second->message) return found->second->message;
  auto bytes = std::make_shared<Bytes>(found->second->size);
  found->second->read(0, *bytes);
  return bytes;
}

}  // namespace espalier::strategy
