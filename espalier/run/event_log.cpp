#include "espalier/run/event_log.h"

#include <cerrno>
#include <cstring>
#include <ctime>

#include "espalier/base/error.h"

namespace espalier::run {

EventLog::~EventLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void EventLog::open(const std::filesystem::path& file) {
  file_ = std::fopen(file.c_str(), "ae");
  // A crash may have left half a line.
  std::error_code unknown;
  const auto size = std::filesystem::file_size(file, unknown);
  if (file_ != nullptr && !unknown && size > 0) {
    std::FILE* before = std::fopen(file.c_str(), "re");
    if (before != nullptr && std::fseek(before, -1, SEEK_END) == 0 && std::fgetc(before) != '\n')
      std::fputc('\n', file_);
    if (before != nullptr) std::fclose(before);
  }
  if (file_ == nullptr)
    throw StorageError(concat("[serve] ", file.string(), ": ", std::strerror(errno)));
}

void EventLog::write(const Json& event) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  std::tm parts{};
  ::gmtime_r(&now.tv_sec, &parts);
  char seconds[32], time[48];
  std::strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(time, sizeof time, "%s.%03ldZ", seconds, now.tv_nsec / 1'000'000);
  Json stamped = {{"time", time}};
  stamped.update(event);
  // What a client says of itself may be no UTF-8.
  const std::string line = stamped.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const std::lock_guard lock(mutex_);
  for (std::FILE* out : {file_, shown_ ? stderr : nullptr}) {
    if (out == nullptr) continue;
    std::fwrite(line.data(), 1, line.size(), out);
    std::fflush(out);
  }
}

}  // namespace espalier::run
