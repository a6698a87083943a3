#pragma once

#include <cstdio>
#include <filesystem>
#include <mutex>

#include "espalier/base/options.h"

namespace espalier::run {

// What happens to a server, one JSON object per line, for programs that watch it: the time (UTC)
// first, then "event" and what belongs to it (docs/network.md). Thread-safe. A line that cannot be
// written is lost; the run goes on.
class EventLog {
 public:
  EventLog() = default;
  ~EventLog();
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  // Appends to a file. Throws StorageError when it cannot be opened.
  void open(const std::filesystem::path& file);
  // To standard error as well. Before anybody writes.
  void show() { shown_ = true; }
  void write(const Json& event);

 private:
  std::mutex mutex_;
  std::FILE* file_ = nullptr;
  bool shown_ = false;
};

}  // namespace espalier::run
