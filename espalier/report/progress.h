#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "espalier/base/options.h"

// What a person sees while a run goes on, on standard error (standard output is left to results):
//   on a terminal   one line that updates itself, cut to the width of the terminal;
//   otherwise       one plain line per finished round, and, in rounds that take long, a line about
//   the clients that are
//                   done after 2, 4, 8, … and then every 30 seconds;
//   quiet           nothing.
namespace espalier::report {

enum class ProgressMode { kAuto, kBar, kLines, kQuiet };

struct ProgressOptions {
  uint64_t rounds = 0;            // of the whole run; 0 = unknown (no bar, no time left)
  uint64_t rounds_completed = 0;  // before this process, for a resumed run
  ProgressMode mode = ProgressMode::kAuto;

  // The edge of the world; an empty function means the real thing. Tests pass their own.
  std::function<void(std::string_view)> write;  // standard error, unbuffered
  std::function<size_t()> columns;              // width of the terminal
  std::function<double()> now;                  // seconds, monotonic
  std::optional<bool>
      utf8;  // whether the terminal can show UTF-8; default: by LC_ALL, LC_CTYPE, LANG
};

// Thread-safe: update_clients may be called by the threads that train. Never throws on a write that
// fails.
class Progress {
 public:
  explicit Progress(ProgressOptions options);
  // Ends the bar's line, as finish() does.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of the round's `total` clients have returned (or failed).
  void update_clients(uint64_t done, uint64_t total);
  // A round is finished; `metrics` is its line of metrics.jsonl. Accuracy and loss stay shown until
  // the next evaluation.
  void finish_round(const Json& metrics);
  // A message of its own line that does not damage the bar (a failed client, a warning). Shown
  // unless quiet.
  void note(std::string_view text);
  // Leaves the last state of the bar on the screen and ends the line. May be called more than once.
  void finish();

 private:
  void draw_bar(bool force);
  void clear_bar();
  std::string bar_line(size_t columns) const;
  double elapsed() const { return options_.now() - start_; }
  std::optional<double> seconds_left() const;

  ProgressOptions options_;
  std::mutex mutex_;
  double start_ = 0, last_draw_ = -1, last_round_draw_ = -1, round_start_ = 0,
         next_client_line_ = 2;
  uint64_t round_ = 0;  // finished
  uint64_t clients_done_ = 0, clients_total_ = 0;
  std::optional<double> accuracy_, loss_;
  double bytes_ = 0;
  size_t drawn_width_ = 0;
  bool finished_ = false;
};

}  // namespace espalier::report
