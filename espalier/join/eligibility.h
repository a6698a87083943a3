#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <string>

namespace espalier::join {

struct EligibilityOptions {
  // A command (sh -c) whose status is 0 while this device may work: idle, charging, unmetered, say.
  // Empty: always.
  std::string command = {};
  // "22-6": local hours, the second one excluded; past midnight when it is the smaller. Empty: all.
  std::string hours = {};
  // Bytes of tasks and updates per day (UTC); 0: no limit.
  uint64_t max_bytes_per_day = 0;
  std::filesystem::path folder = {};  // what today has cost is kept here
};

// Whether a device may work now, by its owner's rules. Not eligible is absence, not failure: the
// client asks for no task. Used from one thread.
class Eligibility {
 public:
  // Throws Error for hours that cannot be read.
  explicit Eligibility(EligibilityOptions options);

  // Why not, in words; empty: it may. `bytes`: that the next step would move.
  std::string refusal(uint64_t bytes = 0, std::time_t now = std::time(nullptr));
  void count(uint64_t bytes, std::time_t now = std::time(nullptr));

 private:
  bool within_hours(std::time_t now) const;
  void turn_page(std::time_t now);

  EligibilityOptions options_;
  int from_ = -1, until_ = -1;
  int64_t day_ = -1;  // since 1970
  uint64_t used_ = 0;
};

}  // namespace espalier::join
