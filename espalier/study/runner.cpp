#include "espalier/study/runner.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/report/human.h"
#include "espalier/report/run_folder.h"
#include "espalier/study/child.h"
#include "espalier/study/display.h"
#include "espalier/study/estimate.h"

namespace espalier::study {

namespace fs = std::filesystem;

namespace {

constexpr int kInterrupted = 3;  // exit code of a run that can be gone on with

// The last line that says something, without the program's own name.
std::string last_line(const fs::path& log) {
  std::string text;
  try {
    text = read_text_file(log);
  } catch (const Error&) {
    return "";
  }
  text.resize(text.find_last_not_of(" \n\r\t") + 1);
  std::string line = text.substr(text.rfind('\n') + 1);
  constexpr std::string_view kName = "espalier: ";
  if (line.starts_with(kName)) line.erase(0, kName.size());
  return line;
}

std::string ending(int status) {
  if (status == 128 + SIGKILL) return "killed (by the system for want of memory, perhaps)";
  if (status > 128) return concat("ended by signal ", status - 128);
  return concat("ended with status ", status);
}

struct Running {
  size_t cell;
  Child child;
  fs::path log;
};

class Runner {
 public:
  Runner(const std::vector<Cell>& cells, const std::vector<Found>& found,
         const std::vector<size_t>& todo, const StudyFolder& folder, const RunnerOptions& options)
      : cells_(cells),
        found_(found),
        todo_(todo.begin(), todo.end()),
        total_(todo.size()),
        folder_(folder),
        options_(options),
        display_(options.quiet) {}

  Outcome run(const volatile std::sig_atomic_t* stop) {
    while (true) {
      const bool stopping = stop != nullptr && *stop != 0;
      if (stopping && !outcome_.interrupted && (!running_.empty() || !todo_.empty())) {
        outcome_.interrupted = true;
        for (const Running& one : running_) one.child.signal(SIGINT);
      }
      while (!stopping && running_.size() < options_.jobs && !todo_.empty()) start_next();
      if (running_.empty()) break;
      collect(stopping);
      show();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return std::move(outcome_);
  }

 private:
  void start_next() {
    const size_t c = todo_.front();
    todo_.pop_front();
    ++started_;
    const Cell& cell = cells_[c];
    const std::string threads =
        std::to_string(std::max<size_t>(1, options_.threads / options_.jobs));
    try {
      std::vector<std::string> arguments = {options_.program.string(), "simulate", "--quiet",
                                            "--threads", threads};
      const fs::path log = folder_.log(found_[c].folder.filename().string());
      if (found_[c].state == CellState::kBegun) {
        arguments.insert(arguments.end(), {"--resume", found_[c].folder.string()});
      } else {
        clear_leftovers(found_[c].folder);
        const fs::path config = folder_.queued(cell.name);
        write_text_file_atomic(config, to_toml(cell.config));
        arguments.insert(arguments.end(), {config.string(), "--out", found_[c].folder.string()});
      }
      running_.push_back({c, Child(arguments, log), log});
    } catch (const Error& error) {
      failed(c, error.what());
      return;
    }
    std::string text = concat(count(started_), " ", cell.label);
    if (found_[c].state == CellState::kBegun)
      text += concat(": goes on after round ", found_[c].rounds_done, " of ", cell.rounds);
    if (!found_[c].why.empty()) text += concat(": anew, ", found_[c].why);
    display_.line(text);
  }

  // What a process that was killed before its run began may have left.
  static void clear_leftovers(const fs::path& folder) {
    if (!fs::exists(folder)) return;
    std::string holder;
    const auto lock = FileLock::try_take(folder / "run.lock", holder);
    if (!lock || report::RunFolder::is_run(folder))
      fail("study", folder.string(), " is being written by ",
           holder.empty() ? "another process" : holder);
    std::error_code error;
    fs::remove_all(folder, error);
  }

  void collect(bool stopping) {
    for (size_t i = 0; i < running_.size();) {
      const auto status = running_[i].child.poll();
      if (!status) {
        ++i;
        continue;
      }
      const size_t c = running_[i].cell;
      std::error_code error;
      fs::remove(folder_.queued(cells_[c].name), error);
      found_[c].state = CellState::kBegun;
      update(c);
      if (*status == 0) {
        found_[c].state = CellState::kDone;
        finished(c);
      } else if (stopping && (*status == kInterrupted || *status == 128 + SIGINT)) {
        display_.line(concat(cells_[c].label, ": stopped after round ", found_[c].rounds_done,
                             " of ", cells_[c].rounds));
      } else {
        const std::string said = last_line(running_[i].log);
        failed(c, said.empty() || *status > 128 ? ending(*status) : said);
      }
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  void finished(size_t c) {
    ++finished_;
    const auto lines = report::RunFolder::open(found_[c].folder).summary();
    const auto accuracy = lines ? report::number_in(*lines, "final_accuracy") : std::nullopt;
    display_.line(concat(
        cells_[c].label, ": ", accuracy ? report::human_percent(*accuracy) + " after " : "",
        cells_[c].rounds, " rounds, ", report::human_seconds(found_[c].wall_seconds), left()));
  }

  void failed(size_t c, const std::string& error) {
    outcome_.failures[c] = error;
    display_.line(concat(cells_[c].label, " FAILED: ", error));
  }

  void update(size_t c) {
    const Progress progress = progress_of(found_[c].folder);
    found_[c].rounds_done = progress.rounds;
    found_[c].wall_seconds = progress.wall_seconds;
  }

  std::string count(size_t number) const { return concat("[", number, "/", total_, "]"); }

  std::string left() const {
    std::vector<size_t> pending(todo_.begin(), todo_.end());
    for (const Running& one : running_)
      if (found_[one.cell].state != CellState::kDone) pending.push_back(one.cell);
    const auto seconds = time_left(cells_, found_, pending, options_.jobs);
    if (pending.empty() || !seconds) return "";
    return concat("; ", pending.size(), pending.size() == 1 ? " run" : " runs", " left, about ",
                  report::human_seconds(*seconds));
  }

  void show() {
    const auto now = std::chrono::steady_clock::now();
    if (now - shown_ < std::chrono::seconds(1)) return;
    shown_ = now;
    std::string text;
    for (const Running& one : running_) {
      update(one.cell);
      text += concat(text.empty() ? "" : ", ", cells_[one.cell].label, " (",
                     found_[one.cell].rounds_done, "/", cells_[one.cell].rounds, ")");
    }
    if (!running_.empty())
      display_.status(
          concat(count(finished_), outcome_.interrupted ? " stopping: " : " ", text, left()));
  }

  const std::vector<Cell>& cells_;
  std::vector<Found> found_;
  std::deque<size_t> todo_;
  size_t total_, started_ = 0, finished_ = 0;
  const StudyFolder& folder_;
  const RunnerOptions& options_;
  Display display_;
  std::vector<Running> running_;
  Outcome outcome_;
  std::chrono::steady_clock::time_point shown_ = std::chrono::steady_clock::now();
};

}  // namespace

Outcome run_cells(const std::vector<Cell>& cells, const std::vector<Found>& found,
                  const std::vector<size_t>& todo, const StudyFolder& folder,
                  const RunnerOptions& options, const volatile std::sig_atomic_t* stop) {
  ESPALIER_CHECK(options.jobs > 0 && cells.size() == found.size());
  return Runner(cells, found, todo, folder, options).run(stop);
}

std::optional<double> time_left(const std::vector<Cell>& cells, const std::vector<Found>& found,
                                const std::vector<size_t>& todo, size_t jobs) {
  std::vector<Work> work;
  for (size_t c = 0; c < cells.size(); ++c) {
    work.push_back({.variant = cells[c].variants.front(),
                    .rounds = static_cast<double>(cells[c].rounds),
                    .rounds_done = static_cast<double>(found[c].rounds_done),
                    .seconds = found[c].wall_seconds,
                    .pending = std::find(todo.begin(), todo.end(), c) != todo.end()});
  }
  return seconds_left(work, jobs);
}

}  // namespace espalier::study
