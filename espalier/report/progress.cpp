#include "espalier/report/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "espalier/base/clock.h"
#include "espalier/report/human.h"
#include "espalier/report/run_folder.h"

namespace espalier::report {

namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kMaxClientLineSeconds = 30;

void write_to_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;  // a closed pipe must not end a training run
    text.remove_prefix(static_cast<size_t>(written));
  }
}

size_t terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    const std::string_view text(value);
    return text.find("UTF-8") != text.npos || text.find("utf8") != text.npos ||
           text.find("utf-8") != text.npos;
  }
  return false;
}

bool terminal_is_capable() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

std::string loss_text(double loss) {
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), loss < 1000 ? "%.3f" : "%.3g", loss);
  return buffer.data();
}

// A clock that keeps its width from second to second: "0:07", "12:34", "1:02:03".
std::string clock_text(double seconds) {
  const auto total = static_cast<uint64_t>(std::max(seconds, 0.0) + 0.5);
  std::array<char, 48> buffer{};
  if (total < 3600) {
    std::snprintf(buffer.data(), buffer.size(), "%llu:%02llu", total / 60ULL, total % 60ULL);
  } else {
    std::snprintf(buffer.data(), buffer.size(), "%llu:%02llu:%02llu", total / 3600ULL,
                  total / 60ULL % 60, total % 60ULL);
  }
  return buffer.data();
}

// A bar of `width` cells with half-cell steps in UTF-8, whole cells in ASCII.
std::string bar_text(double fraction, size_t width, bool utf8) {
  const double cells = std::clamp(fraction, 0.0, 1.0) * static_cast<double>(width);
  const size_t full = static_cast<size_t>(cells);
  std::string text;
  for (size_t i = 0; i < width; ++i) {
    if (i < full)
      text += utf8 ? "━" : "#";
    else if (i == full && utf8 && cells - static_cast<double>(full) >= 0.5)
      text += "╸";
    else
      text += utf8 ? "─" : ".";
  }
  return text;
}

}  // namespace

Progress::Progress(ProgressOptions options) : options_(std::move(options)) {
  if (options_.mode == ProgressMode::kAuto) {
    options_.mode = terminal_is_capable() ? ProgressMode::kBar : ProgressMode::kLines;
  }
  if (!options_.write) options_.write = write_to_stderr;
  if (!options_.columns) options_.columns = terminal_columns;
  if (!options_.now) options_.now = [clock = Stopwatch()] { return clock.seconds(); };
  if (!options_.utf8) options_.utf8 = locale_is_utf8();
  round_ = options_.rounds_completed;
  start_ = options_.now();
  round_start_ = start_;
  if (options_.mode == ProgressMode::kBar) draw_bar(true);
}

Progress::~Progress() { finish(); }

std::optional<double> Progress::seconds_left() const {
  const uint64_t here = round_ - std::min(round_, options_.rounds_completed);
  if (options_.rounds <= round_ || here == 0) return std::nullopt;
  // Rounds cost about the same, so the mean of the finished ones is the best guess; the clock runs
  // on between them.
  const double mean = (round_start_ - start_) / static_cast<double>(here);
  const double left =
      mean * static_cast<double>(options_.rounds - round_) - (options_.now() - round_start_);
  return std::max(left, 0.0);
}

std::string Progress::bar_line(size_t columns) const {
  // While clients are at work, the round meant is the one they work on.
  const uint64_t shown = clients_total_ > 0 ? round_ + 1 : round_;
  std::string line = concat("round ", shown);
  if (options_.rounds > 0) line += concat("/", options_.rounds);
  // The width of the bar depends on the terminal alone, so that nothing jumps when the figures
  // change.
  if (options_.rounds > 0 && columns >= 50) {
    const double inside = clients_total_ > 0 ? static_cast<double>(clients_done_) /
                                                   static_cast<double>(clients_total_)
                                             : 0;
    const double fraction =
        (static_cast<double>(round_) + inside) / static_cast<double>(options_.rounds);
    line += "  " + bar_text(fraction, std::min<size_t>(40, columns / 4), *options_.utf8);
  }
  // In order of importance: what does not fit is left out.
  std::vector<std::string> parts;
  if (accuracy_) parts.push_back(human_percent(*accuracy_));
  std::string time = clock_text(elapsed());
  if (const auto left = seconds_left()) time += " (" + clock_text(*left) + " left)";
  parts.push_back(time);
  if (loss_) parts.push_back("loss " + loss_text(*loss_));
  if (bytes_ > 0) parts.push_back(human_bytes(bytes_));
  if (clients_total_ > 0) parts.push_back(concat("clients ", clients_done_, "/", clients_total_));
  size_t used = display_width(line);
  for (const std::string& part : parts) {
    if (used + 2 + part.size() >= columns) continue;
    line += "  " + part;
    used += 2 + part.size();
  }
  // Only a line without a bar, which is ASCII, can be too long.
  if (used >= columns) line.resize(columns > 0 ? columns - 1 : 0);
  return line;
}

void Progress::draw_bar(bool force) {
  const double time = options_.now();
  if (!force && time - last_draw_ < kRedrawSeconds) return;
  last_draw_ = time;
  const std::string line = bar_line(options_.columns());
  const size_t width = display_width(line);
  // Overwrites in place and clears the rest with one write, so that the line does not flicker.
  options_.write("\r" + line + "\x1b[K");
  drawn_width_ = width;
}

void Progress::clear_bar() {
  if (drawn_width_ > 0) options_.write("\r\x1b[K");
  drawn_width_ = 0;
}

void Progress::update_clients(uint64_t done, uint64_t total) {
  const std::lock_guard lock(mutex_);
  if (options_.mode == ProgressMode::kQuiet || finished_) return;
  clients_done_ = done;
  clients_total_ = total;
  if (options_.mode == ProgressMode::kBar) {
    draw_bar(false);
    return;
  }
  const double inside = options_.now() - round_start_;
  if (inside >= next_client_line_ && done < total) {
    next_client_line_ = inside + std::min(next_client_line_, kMaxClientLineSeconds);
    options_.write(concat("round ", round_ + 1, ": ", done, " of ", total, " clients done, ",
                          human_seconds(inside), "\n"));
  }
}

void Progress::finish_round(const Json& metrics) {
  const std::lock_guard lock(mutex_);
  if (options_.mode == ProgressMode::kQuiet || finished_) return;
  round_ =
      static_cast<uint64_t>(number_in(metrics, "round").value_or(static_cast<double>(round_ + 1)));
  round_start_ = options_.now();
  next_client_line_ = 2;
  clients_done_ = clients_total_ = 0;
  const auto accuracy = number_in(metrics, "accuracy"), loss = number_in(metrics, "loss");
  if (accuracy) accuracy_ = accuracy;
  if (loss) loss_ = loss;
  const double down = number_in(metrics, "bytes_down_total").value_or(0);
  const double up = number_in(metrics, "bytes_up_total").value_or(0);
  bytes_ = down + up;
  if (options_.mode == ProgressMode::kBar) {
    // A finished round is shown at once, unless rounds are faster than the eye.
    const bool slow = round_start_ - last_round_draw_ >= kRedrawSeconds;
    if (slow) last_round_draw_ = round_start_;
    draw_bar(slow || round_ == options_.rounds);
    return;
  }
  std::string line = concat("round ", round_);
  if (options_.rounds > 0) line += concat("/", options_.rounds);
  // A plain log says only what this round measured; the bar keeps the last evaluation in view.
  if (accuracy) line += "  accuracy " + human_percent(*accuracy);
  if (loss) line += "  loss " + loss_text(*loss);
  if (!accuracy && !loss) {
    if (const auto train_loss = number_in(metrics, "train_loss"))
      line += "  train loss " + loss_text(*train_loss);
  }
  line += "  " + human_bytes(down) + " down  " + human_bytes(up) + " up";
  line += "  " + human_seconds(elapsed());
  if (const auto left = seconds_left()) line += "  " + human_seconds(std::round(*left)) + " left";
  options_.write(line + "\n");
}

void Progress::note(std::string_view text) {
  const std::lock_guard lock(mutex_);
  if (options_.mode == ProgressMode::kQuiet) return;
  const bool bar = options_.mode == ProgressMode::kBar && !finished_;
  if (bar) clear_bar();
  options_.write(concat(text, "\n"));
  if (bar) draw_bar(true);
}

void Progress::finish() {
  const std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  if (options_.mode == ProgressMode::kBar) {
    draw_bar(true);
    options_.write("\n");
  }
}

}  // namespace espalier::report
