#include "espalier/study/runner.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/report/human.h"
#include "espalier/report/run_folder.h"
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

std::vector<Work> work_of(const std::vector<Cell>& cells, const std::vector<Found>& found,
                          const std::vector<size_t>& pending) {
  std::vector<Work> work;
  for (size_t c = 0; c < cells.size(); ++c) {
    work.push_back({.variant = cells[c].variants.front(),
                    .rounds = static_cast<double>(cells[c].rounds),
                    .rounds_done = static_cast<double>(found[c].rounds_done),
                    .seconds = found[c].wall_seconds,
                    .pending = std::find(pending.begin(), pending.end(), c) != pending.end()});
  }
  return work;
}

struct Running {
  size_t cell;
  fs::path log;
  std::string where;  // for people; may be empty
};

class Runner {
 public:
  Runner(const std::vector<Cell>& cells, const std::vector<Found>& found,
         const std::vector<size_t>& todo, const StudyFolder& folder, Places& places,
         const RunnerOptions& options)
      : cells_(cells),
        found_(found),
        todo_(todo),
        total_(todo.size()),
        folder_(folder),
        places_(places),
        stop_(options.stop),
        display_(options.quiet) {}

  Outcome run() {
    while (true) {
      const bool stopping = stop_ != nullptr && *stop_ != 0;
      if (stopping && !outcome_.interrupted && (!running_.empty() || !todo_.empty())) {
        outcome_.interrupted = true;
        places_.stop();
      }
      while (!stopping && running_.size() < places_.jobs() && !todo_.empty()) start_next();
      if (running_.empty()) break;
      collect(stopping);
      show();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return std::move(outcome_);
  }

 private:
  void start_next() {
    const auto next = static_cast<std::ptrdiff_t>(
        next_cell(work_of(cells_, found_, pending()), todo_, places_.jobs()));
    const size_t c = todo_[static_cast<size_t>(next)];
    todo_.erase(todo_.begin() + next);
    ++started_;
    const Cell& cell = cells_[c];
    Job job{.cell = c,
            .config = {},
            .folder = found_[c].folder,
            .log = folder_.log(found_[c].folder.filename().string())};
    try {
      std::error_code none;
      fs::remove(folder_.failure(found_[c].folder.filename().string()), none);
      if (found_[c].state != CellState::kBegun) {
        clear_leftovers(found_[c].folder);
        job.config = folder_.queued(cell.name);
        write_text_file_atomic(job.config, to_toml(cell.config));
      }
    } catch (const Error& error) {
      failed(c, "", error.what());
      return;
    }
    const std::string where = places_.start(job);
    running_.push_back({c, job.log, where});
    std::string text = concat(count(started_), " ", cell.label, where.empty() ? "" : " ", where);
    if (found_[c].state == CellState::kBegun)
      text += concat(": goes on from its last checkpoint; ", found_[c].rounds_done, " of ",
                     cell.rounds, " rounds had been run");
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
    for (const Ended& end : places_.ended()) {
      const auto found = std::find_if(running_.begin(), running_.end(),
                                      [&](const Running& one) { return one.cell == end.cell; });
      ESPALIER_CHECK(found != running_.end());
      const Running one = std::move(*found);
      running_.erase(found);
      const size_t c = one.cell;
      std::error_code error;
      fs::remove(folder_.queued(cells_[c].name), error);
      if (!end.error.empty()) {
        failed(c, one.where, end.error);
        continue;
      }
      found_[c].state = CellState::kBegun;
      update(c);
      if (end.status == 0) {
        found_[c].state = CellState::kDone;
        finished(c, one.where);
      } else if (stopping && (end.status == kInterrupted || end.status == 128 + SIGINT)) {
        display_.line(concat(cells_[c].label, ": stopped after round ", found_[c].rounds_done,
                             " of ", cells_[c].rounds));
      } else {
        const std::string said = last_line(one.log);
        failed(c, one.where, said.empty() || end.status > 128 ? ending(end.status) : said);
      }
    }
  }

  void finished(size_t c, const std::string& where) {
    std::optional<Json> lines;
    try {
      const auto run = report::RunFolder::open(found_[c].folder);
      lines = run.summary();
      const size_t told = run.metrics().size();
      if (told < cells_[c].rounds) {
        failed(c, where,
               concat("its metrics.jsonl has ", told, " of ", cells_[c].rounds,
                      " rounds, for some were lost before it went on; the next call runs it anew"));
        return;
      }
    } catch (const Error& error) {
      failed(c, where, error.what());
      return;
    }
    ++finished_;
    const auto accuracy = lines ? report::number_in(*lines, "final_accuracy") : std::nullopt;
    display_.line(concat(
        cells_[c].label, ": ", accuracy ? report::human_percent(*accuracy) + " after " : "",
        cells_[c].rounds, " rounds, ", report::human_seconds(found_[c].wall_seconds), left()));
  }

  void failed(size_t c, const std::string& where, const std::string& error) {
    outcome_.failures[c] = error;
    display_.line(concat(cells_[c].label, where.empty() ? "" : " ", where, " FAILED: ", error));
    try {
      write_text_file_atomic(folder_.failure(found_[c].folder.filename().string()), error);
    } catch (const Error&) {
      // A disk that is full, perhaps: other calls will not know, this one does.
    }
  }

  void update(size_t c) {
    const Progress progress = progress_of(found_[c].folder);
    found_[c].rounds_done = progress.rounds;
    found_[c].wall_seconds = progress.wall_seconds;
  }

  std::string count(size_t number) const { return concat("[", number, "/", total_, "]"); }

  std::vector<size_t> pending() const {
    std::vector<size_t> pending = todo_;
    for (const Running& one : running_) pending.push_back(one.cell);
    return pending;
  }

  std::string left() const {
    const std::vector<size_t> runs = pending();
    const auto seconds = time_left(cells_, found_, runs, places_.jobs());
    if (runs.empty() || !seconds) return "";
    return concat("; ", runs.size(), runs.size() == 1 ? " run" : " runs", " left, about ",
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
  std::vector<size_t> todo_;
  size_t total_, started_ = 0, finished_ = 0;
  const StudyFolder& folder_;
  Places& places_;
  const volatile std::sig_atomic_t* stop_;
  Display display_;
  std::vector<Running> running_;
  Outcome outcome_;
  std::chrono::steady_clock::time_point shown_ = std::chrono::steady_clock::now();
};

}  // namespace

Outcome run_cells(const std::vector<Cell>& cells, const std::vector<Found>& found,
                  const std::vector<size_t>& todo, const StudyFolder& folder, Places& places,
                  const RunnerOptions& options) {
  ESPALIER_CHECK(cells.size() == found.size());
  return Runner(cells, found, todo, folder, places, options).run();
}

std::optional<double> time_left(const std::vector<Cell>& cells, const std::vector<Found>& found,
                                const std::vector<size_t>& todo, size_t jobs) {
  return seconds_left(work_of(cells, found, todo), jobs);
}

}  // namespace espalier::study
