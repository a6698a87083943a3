#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace espalier {

// Work that many ask for and that is done once: what has been made of an object, found by the
// object's identity. Thread-safe; the first caller does the work while the others wait.
template <class From, class To>
class SharedWork {
 public:
  std::shared_ptr<const To> get(const std::shared_ptr<const From>& from,
                                const std::function<std::shared_ptr<const To>()>& make) {
    std::shared_ptr<Entry> entry;
    {
      const std::lock_guard lock(mutex_);
      auto& slot = entries_[from.get()];
      if (!slot) slot = std::make_shared<Entry>(from);
      entry = slot;
    }
    std::call_once(entry->once, [&] { entry->value = make(); });
    return entry->value;
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    entries_.clear();
  }

 private:
  struct Entry {
    explicit Entry(std::shared_ptr<const From> source) : from(std::move(source)) {}
    std::shared_ptr<const From> from;  // keeps the address from being reused
    std::once_flag once;
    std::shared_ptr<const To> value;
  };
  std::mutex mutex_;
  std::unordered_map<const From*, std::shared_ptr<Entry>> entries_;
};
}  // namespace espalier
