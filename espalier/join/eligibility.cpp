#include "espalier/join/eligibility.h"

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::join {

namespace {

constexpr int64_t kDay = 86'400;

}  // namespace

Eligibility::Eligibility(EligibilityOptions options) : options_(std::move(options)) {
  if (options_.hours.empty()) return;
  int end = 0;
  const int found = std::sscanf(options_.hours.c_str(), "%2d-%2d%n", &from_, &until_, &end);
  if (found != 2 || static_cast<size_t>(end) != options_.hours.size() || from_ < 0 || until_ < 0 ||
      from_ > 23 || until_ > 24 || from_ == until_)
    fail("join", "expected hours like 22-6, got '", options_.hours, "'");
}

bool Eligibility::within_hours(std::time_t now) const {
  if (from_ < 0) return true;
  std::tm local{};
  ::localtime_r(&now, &local);
  return from_ < until_ ? local.tm_hour >= from_ && local.tm_hour < until_
                        : local.tm_hour >= from_ || local.tm_hour < until_;
}

// What today has cost, of earlier processes too.
void Eligibility::turn_page(std::time_t now) {
  const int64_t today = static_cast<int64_t>(now) / kDay;
  if (today == day_) return;
  day_ = today;
  used_ = 0;
  const std::filesystem::path file = options_.folder / "traffic";
  if (!std::filesystem::exists(file)) return;
  const Bytes bytes = read_file(file);
  if (bytes.size() != 2 * sizeof(uint64_t)) return;
  ByteReader in(bytes, file.string());
  const auto day = in.get<int64_t>();
  const auto used = in.get<uint64_t>();
  if (day == today) used_ = used;
}

std::string Eligibility::refusal(uint64_t bytes, std::time_t now) {
  if (!within_hours(now)) return concat("outside of the hours ", options_.hours);
  if (options_.max_bytes_per_day > 0) {
    turn_page(now);
    if (used_ + bytes > options_.max_bytes_per_day || used_ >= options_.max_bytes_per_day)
      return concat("today's ", options_.max_bytes_per_day / 1'000'000, " MB are used up");
  }
  if (options_.command.empty()) return {};
  const int status = std::system(options_.command.c_str());
  if (status == -1) return "the command of --eligible cannot be run";
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : "the command of --eligible says no";
}

void Eligibility::count(uint64_t bytes, std::time_t now) {
  if (options_.max_bytes_per_day == 0) return;
  turn_page(now);
  used_ += bytes;
  Bytes page;
  ByteWriter out(page);
  out.put(day_);
  out.put(used_);
  write_file_atomic(options_.folder / "traffic", page);
}

}  // namespace espalier::join
