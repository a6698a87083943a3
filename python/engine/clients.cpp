#include <condition_variable>
#include <csignal>
#include <deque>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/data.h"
#include "espalier/base/error.h"
#include "espalier/base/heap.h"
#include "espalier/join/joiner.h"
#include "espalier/nn/graph_net.h"
#include "espalier/rpc/credentials.h"

namespace espalier::python {

namespace {

// Thrown out of the client's thread when nobody waits for its work any more.
struct Left {};

// One client of a network. It lives in a thread of its own; what a program in Python has to train
// is handed to whoever calls next(), who answers: a person's code runs in a person's thread, where
// an interrupt reaches it.
class ClientRun {
 public:
  ClientRun(const std::string& options, std::shared_ptr<HandedData> data, bool trains,
            bool evaluates)
      : options_(json_of(options)), data_(std::move(data)) {
    configure_heap();
    thread_ = std::thread([this, trains, evaluates] { work(trains, evaluates); });
  }
  ~ClientRun() { end(); }
  // Returns when the client has left.
  void end() {
    stop();
    const py::gil_scoped_release free;
    if (thread_.joinable()) thread_.join();
  }

  // What has happened, or what is to be done; None when nothing within `seconds`, or after the end.
  // What went wrong is thrown here.
  py::object next(double seconds) {
    std::optional<Json> event;
    {
      const py::gil_scoped_release free;
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                        [this] { return !events_.empty() || over_; });
      if (!events_.empty()) {
        event = std::move(events_.front());
        events_.pop_front();
      } else if (over_ && failure_) {
        std::rethrow_exception(std::exchange(failure_, nullptr));
      }
    }
    if (!event) return py::none();
    const auto kind = event->at("event").get<std::string>();
    if (kind != "train" && kind != "evaluate") return py::make_tuple(kind, event->dump());
    // A copy, so that arrays of it may be kept; what is trained comes back with the answer.
    {
      const std::lock_guard lock(mutex_);
      if (task_ != nullptr) trained_ = std::make_shared<ParameterSet>(task_->weights);
      if (evaluated_ != nullptr) trained_ = std::make_shared<ParameterSet>(*evaluated_);
    }
    return py::make_tuple(kind, event->dump(), Parameters{.own = trained_});
  }
  bool over() {
    const std::lock_guard lock(mutex_);
    return over_ && events_.empty() && failure_ == nullptr;
  }
  uint64_t rounds() {
    const std::lock_guard lock(mutex_);
    return rounds_;
  }

  // The work is done: figures by name.
  void answer(const std::string& figures) {
    const std::lock_guard lock(mutex_);
    if (task_ != nullptr && trained_) task_->weights = *trained_;
    answer_ = json_of(figures);
    answered_.notify_all();
  }
  void fail_work(const std::string& why) {
    const std::lock_guard lock(mutex_);
    why_ = why;
    answered_.notify_all();
  }
  // The task must not go while its term is computed.
  void before_step(const Parameters& weights, Parameters& gradients) {
    const std::lock_guard lock(mutex_);
    check_active({&weights, &gradients});
    task_->before_step(weights.get().values(), gradients.change().values());
  }
  void after_step(Parameters& weights) {
    const std::lock_guard lock(mutex_);
    check_active({&weights});
    task_->after_step(weights.change().values());
  }
  void stop() {
    const std::lock_guard lock(mutex_);
    stop_ = 1;
    answered_.notify_all();
  }

 private:
  void check_active(std::initializer_list<const Parameters*> given) const {
    if (task_ == nullptr) fail("python", "the client's task is over");
    for (const Parameters* one : given) {
      if (!(one->get().layout() == task_->weights.layout()))
        fail("python",
             "expected parameters of this task's tensors; make gradients by weights.zeros() in "
             "every task, whose sizes may differ");
    }
  }
  void tell(Json event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  // Asks whoever calls next() and waits.
  Json ask(Json event, train::ForeignTask* task, const ParameterSet* evaluated) {
    std::unique_lock lock(mutex_);
    task_ = task;
    evaluated_ = evaluated;
    answer_.reset();
    why_.reset();
    events_.push_back(std::move(event));
    changed_.notify_all();
    answered_.wait(lock, [this] { return answer_ || why_ || stop_ != 0; });
    task_ = nullptr;
    evaluated_ = nullptr;
    if (answer_) return std::move(*answer_);
    if (why_) fail("python", *why_);
    throw Left();
  }
  train::ForeignProgram program(bool evaluates) {
    train::ForeignProgram out;
    out.fit = [this](train::ForeignTask& task) {
      Json options = Json::object();
      write_options(task.options, options);
      const Json figures = ask({{"event", "train"},
                                {"round", round_},
                                {"num_samples", task.num_samples},
                                {"data", samples_},
                                {"options", options},
                                {"seed", task.seed},
                                {"before_step", static_cast<bool>(task.before_step)},
                                {"after_step", static_cast<bool>(task.after_step)}},
                               &task, nullptr);
      train::FitResult result;
      constexpr double kUntold = std::numeric_limits<double>::quiet_NaN();
      result.loss = figures.value("loss", kUntold);
      result.accuracy = figures.value("accuracy", kUntold);
      result.steps = figures.value("steps", uint64_t{0});
      result.samples = figures.value("samples", uint64_t{0});
      result.macs = figures.value("macs", uint64_t{0});
      return result;
    };
    if (evaluates) {
      out.evaluate = [this](const ParameterSet& weights) {
        const Json figures = ask({{"event", "evaluate"}, {"round", round_}}, nullptr, &weights);
        const auto count = figures.value("count", uint64_t{0});
        return train::EvalSums{figures.value("loss", 0.0) * static_cast<double>(count),
                               figures.value("correct", uint64_t{0}),
                               count,
                               {}};
      };
    }
    return out;
  }
  void work(bool trains, bool evaluates) {
    std::exception_ptr failure;
    try {
      join(trains, evaluates);
    } catch (const Left&) {
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    failure_ = failure;
    over_ = true;
    changed_.notify_all();
  }
  void join(bool trains, bool evaluates) {
    join::JoinOptions options;
    const auto text = [&](const char* name) { return options_.value(name, std::string()); };
    options.connection.server = text("server");
    if (options_.contains("client")) {
      options.connection.credentials.insecure = true;
      options.connection.insecure_client = options_.at("client").get<uint64_t>();
    } else {
      options.connection.credentials = rpc::read_credentials(text("ca"), text("cert"), text("key"));
    }
    options.folder = text("folder");
    options.module = text("module");
    options.device = text("device");
    options.instructions = nn::instructions();
    options.memory_bytes = options_.value("memory_mb", uint64_t{0}) * 1'000'000;
    options.retry_max_ms = options_.value("retry_max_s", uint32_t{300}) * 1000;
    options.say = [this](const std::string& line) { tell({{"event", "say"}, {"line", line}}); };
    options.on_task = [this](uint32_t round) { round_ = round; };
    options.on_failed = [this](const std::string& why) {
      tell({{"event", "failed"}, {"why", why}});
    };
    options.on_joined = [this](const rpc::DataSpec& spec) {
      constexpr const char* kKinds[] = {"images", "floats", "tokens"};
      samples_ = {{"kind", spec.kind < 3 ? kKinds[spec.kind] : "unknown"},
                  {"shape", spec.sample_shape},
                  {"classes", spec.num_classes},
                  {"vocabulary", spec.vocabulary},
                  {"mean", spec.mean},
                  {"stddev", spec.stddev}};
    };
    data::Dataset train, test;
    if (trains) {
      options.program = program(evaluates);
      options.num_samples = options_.value("num_samples", size_t{0});
      options.num_test_samples = options_.value("num_test_samples", size_t{0});
    } else {
      train = data_->data.train;
      test = data_->data.test;
    }
    join::Joiner joiner(std::move(options), std::move(train), std::move(test));
    const join::Joiner::End end = joiner.run(&stop_);
    {
      const std::lock_guard lock(mutex_);
      rounds_ = joiner.rounds_done();
    }
    if (end == join::Joiner::End::kEndedEarly)
      fail("join", "the server ended the run before it was complete");
  }

  const Json options_;
  const std::shared_ptr<HandedData> data_;
  volatile std::sig_atomic_t stop_ = 0;
  uint32_t round_ = 0;  // of the client's thread
  Json samples_;        // what they look like to the run; of the client's thread

  std::mutex mutex_;
  std::condition_variable changed_, answered_;
  std::deque<Json> events_;
  train::ForeignTask* task_ = nullptr;
  const ParameterSet* evaluated_ = nullptr;
  std::shared_ptr<ParameterSet> trained_;  // by the program
  std::optional<Json> answer_;
  std::optional<std::string> why_;
  uint64_t rounds_ = 0;
  bool over_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace

void add_clients(py::module_& module) {
  py::class_<ClientRun>(module, "ClientRun")
      .def(py::init<const std::string&, std::shared_ptr<HandedData>, bool, bool>(),
           py::arg("options"), py::arg("data"), py::arg("trains"), py::arg("evaluates"))
      .def("next", &ClientRun::next, py::arg("seconds"))
      .def("over", &ClientRun::over)
      .def_property_readonly("rounds", &ClientRun::rounds)
      .def("answer", &ClientRun::answer, py::arg("figures"))
      .def("fail", &ClientRun::fail_work, py::arg("why"))
      .def("before_step", &ClientRun::before_step, py::arg("weights"), py::arg("gradients"))
      .def("after_step", &ClientRun::after_step, py::arg("weights"))
      .def("stop", &ClientRun::stop)
      .def("end", &ClientRun::end);
}

}  // namespace espalier::python
