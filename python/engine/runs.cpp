#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/data.h"
#include "espalier/base/config.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/heap.h"
#include "espalier/base/thread_pool.h"
#include "espalier/models/process.h"
#include "espalier/report/compare.h"
#include "espalier/report/html.h"
#include "espalier/report/run_reports.h"
#include "espalier/run/simulation.h"

namespace espalier::python {

namespace {

// One simulation in a thread of its own, so that the interpreter is free while it works and keeps
// its own settings of the processor. What happens comes through next().
class EngineRun {
 public:
  EngineRun(const std::string& config, std::vector<std::string> assignments, const std::string& out,
            const std::string& beside, const std::string& resume, int64_t threads,
            std::shared_ptr<HandedData> data, uint64_t stop_after)
      : assignments_(std::move(assignments)),
        out_(out),
        beside_(beside),
        resume_(resume),
        threads_(threads > 0 ? static_cast<size_t>(threads) : available_processors()),
        data_(std::move(data)),
        stop_after_(stop_after) {
    if (resume_.empty()) tree_ = json_of(config);
    configure_heap();  // before there is another thread, which would have a heap of its own
    thread_ = std::thread([this] { work(); });
  }
  ~EngineRun() { end(); }
  // The round in progress is the last; returns when it is over. Before the interpreter goes, whose
  // lock a round may need.
  void end() {
    const py::gil_scoped_release free;
    stop_ = 1;
    if (thread_.joinable()) thread_.join();
  }

  // The next thing that has happened, as JSON, or nothing within `seconds`. What went wrong is
  // thrown here; None after the end: finished() is true then.
  std::optional<std::string> next(double seconds) {
    const py::gil_scoped_release free;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                      [this] { return !events_.empty() || over_; });
    if (!events_.empty()) {
      std::string event = std::move(events_.front());
      events_.pop_front();
      return event;
    }
    if (over_ && failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    return std::nullopt;
  }
  bool over() {
    const std::lock_guard lock(mutex_);
    return over_ && events_.empty() && failure_ == nullptr;
  }
  // The round in progress is the last.
  void stop() { stop_ = 1; }

 private:
  void tell(const Json& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(event.dump(-1, ' ', false, Json::error_handler_t::replace));
    changed_.notify_all();
  }
  void work() {
    std::exception_ptr failure;
    try {
      simulate();
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    failure_ = failure;
    over_ = true;
    changed_.notify_all();
  }
  void simulate() {
    models::configure_process();
    std::optional<report::RunFolder> folder;
    if (!resume_.empty()) {
      folder = report::RunFolder::resume(resume_);
      tree_ = read_toml_file(folder->config_path());
    }
    const std::vector<std::string> overridden = run::override_config(tree_, assignments_);
    run::RunConfig config = run::read_run_config(tree_);
    const auto rounds = config.run.rounds;
    if (resume_.empty()) {
      folder = out_.empty() ? report::RunFolder::create_beside(beside_)
                            : report::RunFolder::create(out_);
    }
    std::optional<data::HandedOver> here;
    if (data_) here.emplace(data_->data);
    run::Simulation simulation(std::move(config), threads_, &*folder, assignments_);
    if (!resume_.empty()) simulation.resume();
    folder->write_config(to_toml(simulation.resolved()));
    std::vector<std::string> notes = overridden;
    for (const std::string& note : simulation.notes()) notes.push_back(note);
    tell({{"event", "start"},
          {"folder", folder->path().string()},
          {"rounds", rounds},
          {"completed", simulation.loop().rounds_completed()},
          {"size", simulation.size_line()},
          {"notes", notes}});
    simulation.on_round = [this, played = uint64_t{0}](const Json& line) mutable {
      if (++played == stop_after_) stop_ = 1;
      tell({{"event", "round"}, {"line", line}});
    };
    simulation.on_note = [this](const std::string& note) {
      tell({{"event", "note"}, {"text", note}});
    };
    simulation.run(nullptr, &stop_);
    report::write_reports(*folder);
    tell(
        {{"event", "end"}, {"finished", simulation.finished()}, {"summary", simulation.summary()}});
  }

  Json tree_;
  const std::vector<std::string> assignments_;
  const std::string out_, beside_, resume_;
  const size_t threads_;
  const std::shared_ptr<HandedData> data_;
  const uint64_t stop_after_;  // so many rounds, as stop() would; 0: at the end
  volatile std::sig_atomic_t stop_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> events_;
  bool over_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace

void add_runs(py::module_& module) {
  py::class_<EngineRun>(module, "Run")
      .def(py::init<const std::string&, std::vector<std::string>, const std::string&,
                    const std::string&, const std::string&, int64_t, std::shared_ptr<HandedData>,
                    uint64_t>(),
           py::arg("config"), py::arg("assignments"), py::arg("out"), py::arg("beside"),
           py::arg("resume"), py::arg("threads"), py::arg("data"), py::arg("stop_after") = 0)
      .def("next", &EngineRun::next, py::arg("seconds"))
      .def("over", &EngineRun::over)
      .def("stop", &EngineRun::stop)
      .def("end", &EngineRun::end);
  module.def(
      "compare_text",
      [](const std::vector<std::string>& folders) {
        return report::compare_text(report::load_runs({folders.begin(), folders.end()}));
      },
      py::arg("folders"));
  module.def(
      "compare_json",
      [](const std::vector<std::string>& folders) {
        return report::compare_json(report::load_runs({folders.begin(), folders.end()}))
            .dump(-1, ' ', false, Json::error_handler_t::replace);
      },
      py::arg("folders"));
  module.def(
      "write_html",
      [](const std::vector<std::string>& folders, const std::string& file) {
        for (const std::string& folder : folders)
          refuse_overwriting(file, report::RunFolder::open(folder).files());
        report::write_html(report::load_runs({folders.begin(), folders.end()}), file);
      },
      py::arg("folders"), py::arg("file"));
  module.def("read_config", [](const std::string& path) {
    return read_toml_file(path).dump(-1, ' ', false, Json::error_handler_t::replace);
  });
}

}  // namespace espalier::python
