#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/base/file.h"
#include "espalier/base/options.h"

// The folder that one run leaves behind, and the only place that knows the names of its files:
//
//   config.toml         the resolved configuration; its presence is what makes a folder a run
//   metrics.jsonl       one JSON object per round, appended as the run goes
//   summary.json        the key figures, written at the end (and after every checkpoint, if the
//   caller likes) clients.json        label counts of up to 200 clients, for the report
//   model.safetensors   the final parameters
//   participants/       who took part in rounds of more than kMaxIdsInLine clients
//   data.json           sizes and fingerprints of the data, and how models see them
//   inputs/             copies of the files that the configuration names, each under its key
//   checkpoint/         what a resumed run needs
//   run.lock            held by the process that writes the folder; its text says which
//   report.html         the rendered report
//   events.out.tfevents.espalier   scalars for TensorBoard
//
// A metrics line has "round" (1-based) and any further numeric fields; the report knows the usual
// ones by name and draws the rest as they are. A field that was not measured in a round is left out
// or null.
namespace espalier::report {

// Label counts of one client: labels[c] = number of its training samples of class c.
struct ClientLabels {
  uint64_t id = 0;
  uint64_t samples = 0;
  std::vector<uint64_t> labels;
};

struct ClientHistogram {
  uint64_t classes = 0;
  uint64_t num_clients = 0;  // of the whole population; `clients` may hold fewer
  std::vector<ClientLabels> clients;
};

inline constexpr size_t kMaxStoredClients = 200;
inline constexpr size_t kMaxIdsInLine = 1000;  // of clients, in one line of metrics

// Not thread-safe. A folder has one writer at a time, this process or another: create() and
// resume() take its lock, which ends with the object or with the process, however that ends. Any
// number may read meanwhile. Every failure is an Error that names the file.
class RunFolder {
 public:
  // A folder for a new run: made if it is missing, accepted if it is empty. A folder that already
  // holds a run, or something else, is refused: nothing of the user's is ever overwritten. What was
  // made goes with the object when no configuration has been written by then.
  static RunFolder create(const std::filesystem::path& path);
  // As create(path), or the first of path-2, path-3, … that is free.
  static RunFolder create_beside(const std::filesystem::path& path);
  // A folder that holds a run (has a config.toml), to go on writing it. Removes what a killed
  // process may have left half-written.
  static RunFolder resume(const std::filesystem::path& path);
  // The same, to read it: the functions that write must not be called.
  static RunFolder open(const std::filesystem::path& path);
  // Whether `path` is a run folder.
  static bool is_run(const std::filesystem::path& path);

  RunFolder(RunFolder&& other) noexcept;
  RunFolder& operator=(RunFolder&& other) noexcept;
  ~RunFolder();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config_path() const { return path_ / "config.toml"; }
  std::filesystem::path metrics_path() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path summary_path() const { return path_ / "summary.json"; }
  std::filesystem::path clients_path() const { return path_ / "clients.json"; }
  std::filesystem::path model_path() const { return path_ / "model.safetensors"; }
  std::filesystem::path checkpoint_path() const { return checkpoint_path(path_); }
  // Of a folder that need not be there yet.
  static std::filesystem::path checkpoint_path(const std::filesystem::path& folder) {
    return folder / "checkpoint";
  }
  std::filesystem::path report_path() const { return path_ / "report.html"; }
  std::filesystem::path events_path() const { return path_ / "events.out.tfevents.espalier"; }
  std::filesystem::path inputs_path() const { return path_ / "inputs"; }
  std::filesystem::path data_path() const { return path_ / "data.json"; }
  static constexpr const char* kLock = "run.lock";
  std::filesystem::path lock_path() const { return path_ / kLock; }
  // What the run consists of: every file but the report. Nothing may be written over these.
  std::vector<std::filesystem::path> files() const;
  // The last component of the path: what a person calls this run.
  std::string name() const;

  void write_config(std::string_view toml_text) const;

  // One line, one write(2): a crash leaves whole lines and at most one torn one at the end. When
  // the write fails (a full disk) the file is cut back to its last whole line.
  void append_metrics(const Json& line);
  // Keeps the lines of rounds 1..rounds and drops the rest, and a torn last line; returns how many
  // were kept. For a resume after a crash: rounds that the checkpoint does not have will be run,
  // and written, again.
  uint64_t truncate_metrics(uint64_t rounds);
  // Empty when no round has been written.
  std::vector<Json> metrics() const;

  void write_summary(const Json& summary) const;
  // nullopt when the run has not written one yet.
  std::optional<Json> summary() const;

  // Writes the ids, one per line, to participants/ROUND-WHAT.txt and returns that name.
  std::string write_ids(std::string_view what, uint64_t round,
                        const std::vector<uint64_t>& ids) const;

  // What the run's data are (run/sources.h); nullopt when it was not written.
  void write_data(const Json& data) const;
  std::optional<Json> data() const;

  // Stores the first kMaxStoredClients clients.
  void write_clients(const ClientHistogram& histogram) const;
  std::optional<ClientHistogram> clients() const;

 private:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}
  // Throws Error that names the process that has the lock.
  void take_lock();
  bool is_ours() const { return lock_.has_value(); }
  void open_metrics();
  void close_metrics();
  void remove_unused();

  std::filesystem::path path_;
  std::optional<FileLock> lock_;             // only what create() and resume() give has it
  std::vector<std::filesystem::path> made_;  // folders that create() made, the innermost first
  int metrics_descriptor_ = -1;
  uint64_t metrics_bytes_ = 0;
};

// The lines of a metrics.jsonl. A last line that is torn is left out; anything else that is not a
// JSON object with a "round" is an Error with its line number.
std::vector<Json> read_metrics(const std::filesystem::path& path);

// A number of a metrics line or a summary; nullopt when it is absent, null or not a number.
std::optional<double> number_in(const Json& object, std::string_view key);

}  // namespace espalier::report
