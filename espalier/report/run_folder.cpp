#include "espalier/report/run_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "espalier/base/file.h"

namespace espalier::report {

namespace fs = std::filesystem;

namespace {

bool is_line(const Json& value) {
  const auto number = value.is_object() ? number_in(value, "round") : std::nullopt;
  return number && *number >= 1;
}

// The whole lines of `text`. A crash can only tear the last line, so only that one may be
// unreadable.
std::vector<Json> parse_lines(std::string_view text, const fs::path& path) {
  std::vector<Json> lines;
  size_t number = 0;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (is_line(value)) {
      lines.push_back(std::move(value));
    } else if (!text.empty()) {
      fail("report/run_folder", "expected a JSON object with a round, got something else (",
           path.string(), ", line ", number, "); restore the file, or remove that line");
    }
  }
  return lines;
}

std::string text_of(const std::vector<Json>& lines) {
  std::string text;
  for (const Json& line : lines) text += line.dump() + '\n';
  return text;
}

Json read_json_object(const fs::path& path) {
  Json value = Json::parse(read_text_file(path), nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) {
    fail("report/run_folder", "expected a JSON object, got something else (", path.string(), ")");
  }
  return value;
}

uint64_t count_in(const Json& object, std::string_view key, const fs::path& path) {
  const auto found = object.find(std::string(key));
  if (found == object.end() || !found->is_number_unsigned()) {
    fail("report/run_folder", "expected a whole number '", key, "' (", path.string(), ")");
  }
  return found->get<uint64_t>();
}

}  // namespace

std::optional<double> number_in(const Json& object, std::string_view key) {
  if (!object.is_object()) return std::nullopt;
  const auto found = object.find(std::string(key));
  if (found == object.end() || !found->is_number()) return std::nullopt;
  const double value = found->get<double>();
  return std::isfinite(value) ? std::optional<double>(value) : std::nullopt;
}

std::vector<Json> read_metrics(const fs::path& path) {
  return parse_lines(read_text_file(path), path);
}

bool RunFolder::is_run(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path / "config.toml", error);
}

RunFolder RunFolder::create(const fs::path& path) {
  std::error_code error;
  if (is_run(path)) {
    fail("report/run_folder", path.string(), " already holds a run; continue it with --resume ",
         path.string(), ", or choose another --out");
  }
  if (fs::exists(path, error) && !fs::is_directory(path, error)) {
    fail("report/run_folder", "expected a folder for the run, got a file: ", path.string(),
         "; choose another --out");
  }
  RunFolder folder(path);
  for (fs::path part = fs::absolute(path); !fs::exists(part, error); part = part.parent_path())
    if (part.has_filename()) folder.made_.push_back(part);
  make_folder(path);
  const auto holds_something = [&](const fs::directory_entry& entry) {
    return entry.path().filename() != folder.lock_path().filename();
  };
  fs::directory_iterator entries(path, error);
  if (error) fail("report/run_folder", "cannot list ", path.string(), ": ", error.message());
  if (std::any_of(entries, fs::directory_iterator(), holds_something)) {
    fail("report/run_folder", path.string(),
         " is not empty and is not a run; choose a new or an empty folder for --out");
  }
  folder.take_lock();
  if (is_run(path)) {  // of a process that was faster and has ended
    fail("report/run_folder", path.string(), " already holds a run; continue it with --resume ",
         path.string(), ", or choose another --out");
  }
  return folder;
}

RunFolder RunFolder::create_beside(const fs::path& path) {
  fs::path candidate = path;
  for (int i = 2;; ++i) {
    std::error_code error;
    if (!fs::exists(candidate, error)) {
      try {
        return create(candidate);
      } catch (const Error&) {
        // Taken by another process in this moment, unless it cannot be made at all.
        if (!fs::exists(candidate, error)) throw;
      }
    }
    candidate = concat(path.string(), "-", i);
  }
}

RunFolder RunFolder::resume(const fs::path& path) {
  RunFolder folder = open(path);
  folder.take_lock();
  for (const fs::path& place : {path, checkpoint_path(path)}) {
    std::error_code error;
    std::vector<fs::path> torn;
    for (const auto& entry : fs::directory_iterator(place, error))
      if (entry.path().extension() == ".tmp") torn.push_back(entry.path());
    for (const fs::path& file : torn) fs::remove(file, error);
  }
  return folder;
}

void RunFolder::take_lock() {
  std::string holder;
  lock_ = FileLock::try_take(lock_path(), holder);
  if (!lock_) {
    made_.clear();  // another's now
    fail("report/run_folder", "the run in ", path_.string(), " is being written by ", holder,
         "; wait for it or stop it");
  }
}

// A folder that was made for a run that never began.
void RunFolder::remove_unused() {
  if (!is_ours() || is_run(path_)) return;
  std::error_code error;
  fs::remove(lock_path(), error);
  for (const fs::path& folder : made_)
    if (!fs::remove(folder, error)) break;  // not empty: something else is in it
}

RunFolder RunFolder::open(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error))
    fail("report/run_folder", "there is no run folder ", path.string());
  if (!is_run(path)) {
    fail("report/run_folder", path.string(),
         " is not a run folder: it has no config.toml; give the folder that "
         "'espalier simulate --out' wrote");
  }
  return RunFolder(path);
}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)),
      lock_(std::exchange(other.lock_, std::nullopt)),
      made_(std::move(other.made_)),
      metrics_descriptor_(std::exchange(other.metrics_descriptor_, -1)),
      metrics_bytes_(other.metrics_bytes_) {}

RunFolder& RunFolder::operator=(RunFolder&& other) noexcept {
  if (this != &other) {
    close_metrics();
    remove_unused();
    path_ = std::move(other.path_);
    lock_ = std::exchange(other.lock_, std::nullopt);
    made_ = std::move(other.made_);
    metrics_descriptor_ = std::exchange(other.metrics_descriptor_, -1);
    metrics_bytes_ = other.metrics_bytes_;
  }
  return *this;
}

RunFolder::~RunFolder() {
  close_metrics();
  remove_unused();
}

void RunFolder::close_metrics() {
  if (metrics_descriptor_ >= 0) ::close(metrics_descriptor_);
  metrics_descriptor_ = -1;
}

std::vector<fs::path> RunFolder::files() const {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(path_, error))
    if (entry.is_regular_file(error) && entry.path() != report_path())
      files.push_back(entry.path());
  return files;
}

std::string RunFolder::name() const {
  const fs::path full = fs::absolute(path_).lexically_normal();
  const fs::path last = full.has_filename() ? full.filename() : full.parent_path().filename();
  return last.string();
}

void RunFolder::write_config(std::string_view toml_text) const {
  ESPALIER_CHECK(is_ours());
  write_text_file_atomic(config_path(), toml_text);
}

void RunFolder::open_metrics() {
  // A torn line from a crash must not swallow the next one.
  std::error_code error;
  if (fs::exists(metrics_path(), error)) {
    const std::string text = read_text_file(metrics_path());
    const std::string whole = text_of(parse_lines(text, metrics_path()));
    if (whole != text) write_text_file_atomic(metrics_path(), whole);
  }
  metrics_descriptor_ =
      ::open(metrics_path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (metrics_descriptor_ < 0) {
    fail("report/run_folder", "cannot write ", metrics_path().string(), ": ", std::strerror(errno));
  }
  const off_t end = ::lseek(metrics_descriptor_, 0, SEEK_END);
  metrics_bytes_ = end > 0 ? static_cast<uint64_t>(end) : 0;
}

void RunFolder::append_metrics(const Json& line) {
  ESPALIER_CHECK(is_ours());
  ESPALIER_CHECK(is_line(line), "a metrics line needs a round: ", line.dump());
  if (metrics_descriptor_ < 0) open_metrics();
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  ssize_t written = 0;
  do {
    written = ::write(metrics_descriptor_, text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(text.size())) {
    metrics_bytes_ += text.size();
    return;
  }
  const std::string reason = written < 0 ? std::strerror(errno) : "the disk is full";
  // Should cutting back fail too, the torn line is the last one and every reader copes with that.
  static_cast<void>(!::ftruncate(metrics_descriptor_, static_cast<off_t>(metrics_bytes_)));
  fail("report/run_folder", "cannot write ", metrics_path().string(), ": ", reason,
       "; free some space and continue with --resume ", path_.string());
}

uint64_t RunFolder::truncate_metrics(uint64_t rounds) {
  ESPALIER_CHECK(is_ours());
  close_metrics();
  std::vector<Json> lines = metrics();
  const auto beyond = [&](const Json& line) {
    return *number_in(line, "round") > static_cast<double>(rounds);
  };
  lines.erase(std::find_if(lines.begin(), lines.end(), beyond), lines.end());
  write_text_file_atomic(metrics_path(), text_of(lines));
  return lines.size();
}

std::vector<Json> RunFolder::metrics() const {
  std::error_code error;
  if (!fs::exists(metrics_path(), error)) return {};
  return read_metrics(metrics_path());
}

void RunFolder::write_summary(const Json& summary) const {
  ESPALIER_CHECK(is_ours());
  write_text_file_atomic(summary_path(),
                         summary.dump(2, ' ', false, Json::error_handler_t::replace) + '\n');
}

std::optional<Json> RunFolder::summary() const {
  std::error_code error;
  if (!fs::exists(summary_path(), error)) return std::nullopt;
  return read_json_object(summary_path());
}

std::string RunFolder::write_ids(std::string_view what, uint64_t round,
                                 const std::vector<uint64_t>& ids) const {
  ESPALIER_CHECK(is_ours());
  const std::string name = concat("participants/", round, "-", what, ".txt");
  std::string text;
  for (const uint64_t id : ids) text += std::to_string(id) + '\n';
  make_folder(path_ / "participants");
  write_text_file_atomic(path_ / name, text);
  return name;
}

void RunFolder::write_data(const Json& data) const {
  ESPALIER_CHECK(is_ours());
  write_text_file_atomic(data_path(), data.dump(2) + '\n');
}

std::optional<Json> RunFolder::data() const {
  std::error_code error;
  if (!fs::exists(data_path(), error)) return std::nullopt;
  return read_json_object(data_path());
}

void RunFolder::write_clients(const ClientHistogram& histogram) const {
  ESPALIER_CHECK(is_ours());
  Json root;
  root["classes"] = histogram.classes;
  root["num_clients"] = std::max<uint64_t>(histogram.num_clients, histogram.clients.size());
  Json& list = root["clients"] = Json::array();
  for (size_t i = 0; i < std::min(histogram.clients.size(), kMaxStoredClients); ++i) {
    const ClientLabels& client = histogram.clients[i];
    list.push_back({{"id", client.id}, {"samples", client.samples}, {"labels", client.labels}});
  }
  write_text_file_atomic(clients_path(), root.dump() + '\n');
}

std::optional<ClientHistogram> RunFolder::clients() const {
  std::error_code error;
  const fs::path path = clients_path();
  if (!fs::exists(path, error)) return std::nullopt;
  const Json root = read_json_object(path);
  ClientHistogram histogram;
  histogram.classes = count_in(root, "classes", path);
  if (!root.contains("clients") || !root["clients"].is_array()) {
    fail("report/run_folder", "expected a list 'clients' (", path.string(), ")");
  }
  for (const Json& entry : root["clients"]) {
    ClientLabels client{count_in(entry, "id", path), count_in(entry, "samples", path), {}};
    const bool listed = entry.contains("labels") && entry["labels"].is_array();
    if (!listed || entry["labels"].size() != histogram.classes) {
      fail("report/run_folder", "expected ", histogram.classes, " label counts of client ",
           client.id, " (", path.string(), ")");
    }
    for (const Json& count : entry["labels"]) {
      if (!count.is_number_unsigned())
        fail("report/run_folder", "expected whole label counts (", path.string(), ")");
      client.labels.push_back(count.get<uint64_t>());
    }
    histogram.clients.push_back(std::move(client));
  }
  histogram.num_clients =
      root.contains("num_clients") ? count_in(root, "num_clients", path) : histogram.clients.size();
  return histogram;
}

}  // namespace espalier::report
