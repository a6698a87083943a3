#include <functional>
#include <map>
#include <new>
#include <optional>
#include <set>

#include "engine/engine.h"
#include "espalier/base/error.h"
#include "espalier/client/local_training.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/strategy/fedavg_client.h"
#include "espalier/strategy/strategy.h"

// Strategies that are written in Python. An object of the person's class is the server's half;
// where the class has run_client(), another one is the client's. Both are called with the
// interpreter's lock held, by the engine's threads; what they throw is that round's, or that
// client's, failure.
namespace espalier::python {

namespace {

using client::ClientContext;

// Runs Python code from a thread of the engine.
template <class Work>
auto with_python(const std::string& what, Work&& work) {
  const py::gil_scoped_acquire lock;
  try {
    return work();
  } catch (py::error_already_set& error) {
    if (error.matches(PyExc_KeyboardInterrupt)) PyErr_SetInterrupt();
    // The place in the person's file, which is what helps.
    const std::string text = error.what();
    throw Error(concat("[strategy/", what, "] ", text));
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {  // pybind11's own: a value of another type, say
    throw Error(concat("[strategy/", what, "] ", error.what()));
  }
}

// Takes back what was lent to Python for a call, however that ends: who has kept it gets an Error.
class Lent {
 public:
  explicit Lent(std::function<void()> back) : back_(std::move(back)) {}
  ~Lent() { back_(); }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;

 private:
  std::function<void()> back_;
};

// A view of memory that is gone after the call.
py::array lend(std::span<const float> values, bool writeable) {
  const py::capsule none(values.data(), [](void*) {});  // a base keeps pybind11 from copying
  return show(values, {static_cast<int64_t>(values.size())}, none, writeable);
}
// Throws Error when somebody has kept one, or a part of one.
void check_returned(const char* function,
                    std::initializer_list<std::reference_wrapper<const py::array>> lent) {
  for (const py::array& array : lent) {
    if (array.ref_count() > 1)
      fail("python", function,
           " has kept an array that it was lent for the call; keep a copy() of it");
  }
}

// What a person has given for a payload.
const Parameters& parameters_in(const py::object& given, const std::string& name) {
  if (!py::isinstance<Parameters>(given))
    throw py::type_error(concat("'", name, "' is to be Parameters, not ",
                                py::type::of(given).attr("__name__").cast<std::string>(),
                                ": fill task[\"model\"].zeros(), and give that"));
  return given.cast<const Parameters&>();
}

// ---- what a client half works with

// What run_client() returns. The engine has it from then on: who has kept it gets an Error, and who
// has kept its delta keeps values of their own.
class PythonUpdate {
 public:
  explicit PythonUpdate(wire::Update update) : update_(std::move(update)) {
    delta_ = py::cast(
        Parameters{.own = std::const_pointer_cast<ParameterSet>(get().payloads[0].values)});
    get().payloads[0].weight = get().num_samples;
  }
  const wire::Update& get() const {
    if (!update_) fail_spent();
    return *update_;
  }
  wire::Update& get() {
    if (!update_) fail_spent();
    return *update_;
  }
  py::object delta() const {
    get();
    return delta_;
  }
  // Throws Error for what check_payloads() would refuse once the round has it.
  double checked(double weight) const {
    const double most = std::max(1.0, get().num_samples);
    if (!(weight >= 0 && weight <= most))
      fail("python", "expected a weight from 0 to ", most, " (the client's samples, or 1), got ",
           weight);
    return weight;
  }
  wire::Update take() {
    wire::Update out = std::move(get());
    update_.reset();
    // Somebody may still change it, while the engine encodes.
    if (delta_.ref_count() > 1)
      out.payloads[0].values = std::make_shared<const ParameterSet>(*out.payloads[0].values);
    delta_ = py::object();
    return out;
  }

 private:
  [[noreturn]] static void fail_spent() {
    fail("python", "this update was returned, and is the engine's; copy() what you need of it");
  }

  std::optional<wire::Update> update_;
  py::object delta_;  // Parameters
};

struct PythonContext {
  ClientContext* context = nullptr;  // null when the task is over
  const wire::Task* task = nullptr;

  ClientContext& get() const {
    if (context == nullptr) fail("python", "the client's task is over");
    return *context;
  }
  PythonUpdate train(const py::object& before_step, const py::object& after_step) const {
    ClientContext& inner = get();
    train::FitHooks hooks;
    if (!before_step.is_none()) {
      hooks.before_step = [&](std::span<const float> weights, std::span<float> gradients) {
        const py::gil_scoped_acquire lock;
        const py::array shown = lend(weights, false), changed = lend(gradients, true);
        before_step(shown, changed);
        check_returned("before_step", {shown, changed});
      };
    }
    if (!after_step.is_none()) {
      hooks.after_step = [&](std::span<float> weights) {
        const py::gil_scoped_acquire lock;
        const py::array shown = lend(weights, true);
        after_step(shown);
        check_returned("after_step", {shown});
      };
    }
    wire::Update update;
    {
      const py::gil_scoped_release free;
      update = client::train_locally(inner, *task, hooks);
    }
    return PythonUpdate(std::move(update));
  }
};

class PythonClient final : public client::ClientAlgorithm {
 public:
  PythonClient(std::string name, py::object self)
      : name_(std::move(name)), self_(std::move(self)) {}
  ~PythonClient() override {
    const py::gil_scoped_acquire lock;
    self_ = py::object();
  }
  wire::Update run(ClientContext& context, const wire::Task& task) const override {
    return with_python(name_, [&] {
      const py::object given = py::cast(PythonContext{&context, &task});
      py::dict payloads, scalars;
      for (const wire::Payload& payload : task.payloads)
        payloads[py::str(payload.name)] = Parameters::of(payload.values);
      for (const auto& [name, value] : task.scalars) scalars[py::str(name)] = value;
      const Lent over([&] { given.cast<PythonContext&>().context = nullptr; });
      const py::object made = self_.attr("_run_client")(given, payloads, scalars);
      return made.cast<PythonUpdate&>().take();
    });
  }

 private:
  std::string name_;
  py::object self_;
};

// ---- the server's half

class PythonStrategy final : public strategy::Strategy {
 public:
  PythonStrategy(std::string name, py::object self, Json options, bool own_client)
      : name_(std::move(name)),
        self_(std::move(self)),
        options_(std::move(options)),
        own_client_(own_client) {}
  ~PythonStrategy() override {
    const py::gil_scoped_acquire lock;
    shown_ = py::object();
    self_ = py::object();
  }

  strategy::Traits traits() const override {
    return with_python(name_, [&] {
      return strategy::Traits{.client_state = self_.attr("client_state").cast<bool>()};
    });
  }
  void start(const strategy::ServerSetup& setup) override {
    layout_ = setup.layout;
    with_python(name_, [&] {
      self_.attr("start")(Parameters::of(ParameterSet(setup.layout)), setup.num_clients);
    });
  }
  void configure(const strategy::RoundInfo& round,
                 const std::shared_ptr<const ParameterSet>& global, wire::Task& task) override {
    task.algorithm = own_client_ ? "python:" + name_ : strategy::FedAvgClient::kName;
    // All of them: the class may have other defaults where the task arrives.
    if (own_client_) task.options = options_;
    with_python(name_, [&] {
      const py::object out =
          self_.attr("_configure")(round.round, show_global(global), task.client, round.train.lr);
      for (const auto& [name, values] : out.cast<py::dict>()["payloads"].cast<py::dict>())
        task.payloads.push_back(
            {name.cast<std::string>(), values.cast<const Parameters&>().share(), 1});
      for (const auto& [name, value] : out.cast<py::dict>()["scalars"].cast<py::dict>())
        task.scalars[name.cast<std::string>()] = value.cast<double>();
    });
  }
  std::vector<std::string> update_payloads(const strategy::RoundInfo&) const override {
    if (payloads_.empty()) {
      payloads_ = with_python(
          name_, [&] { return self_.attr("_payloads")().cast<std::vector<std::string>>(); });
    }
    return payloads_;
  }
  void finish(const strategy::RoundInfo& round, const strategy::RoundSums& sums,
              ParameterSet& global) override {
    with_python(name_, [&] {
      take_back_shown();
      py::dict means;
      for (const std::string& payload : sums.payloads())
        means[py::str(payload)] = Parameters::of(sums.mean(payload, layout_));
      const auto lent_sums = std::make_shared<const strategy::RoundSums*>(&sums);
      const py::cpp_function total([lent_sums](const std::string& name) {
        if (*lent_sums == nullptr)
          fail("python", "these sums were lent for one call, which is over; keep what they say");
        return (*lent_sums)->sum(name);
      });
      const py::object model = py::cast(Parameters{.lent = &global});
      const auto take_back = [&] {
        *lent_sums = nullptr;
        auto& parameters = model.cast<Parameters&>();
        if (model.ref_count() > 1) parameters.left = give_away(global);
        parameters.lent = nullptr;
      };
      try {
        self_.attr("_finish")(round.round, means, sums.num_updates(), total, model);
      } catch (...) {
        take_back();
        throw;
      }
      take_back();
    });
  }
  void save(ByteWriter& out) const override {
    const std::string bytes =
        with_python(name_, [&] { return self_.attr("_save")().cast<std::string>(); });
    out.put(static_cast<uint64_t>(bytes.size()));
    out.bytes({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  }
  void load(ByteReader& in) override {
    const auto bytes = in.take(in.get<uint64_t>());
    with_python(name_, [&] {
      self_.attr("_load")(py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    });
  }

 private:
  // The global parameters as configure() sees them, one object for all clients of a round.
  py::object show_global(const std::shared_ptr<const ParameterSet>& global) {
    if (!shown_ || shown_.cast<const Parameters&>().fixed != global)
      shown_ = py::cast(Parameters::of(global));
    return shown_;
  }
  // Before the round changes what it showed: who has kept it, or an array of it, keeps its memory,
  // and the engine goes on with a copy.
  void take_back_shown() {
    if (shown_ && shown_.ref_count() > 1) {
      auto& parameters = shown_.cast<Parameters&>();
      // The engine's object, which is const for us alone; finish() may have been given another one
      // (where clients train parts of the model) and this one changes afterwards.
      parameters.fixed = give_away(const_cast<ParameterSet&>(*parameters.fixed));
    }
    shown_ = py::object();
  }
  // The set with its memory; a copy stays in its place.
  static std::shared_ptr<ParameterSet> give_away(ParameterSet& set) {
    ParameterSet copy = set;
    std::swap(copy, set);
    return std::make_shared<ParameterSet>(std::move(copy));
  }

  const std::string name_;
  py::object self_;
  py::object shown_;  // Parameters, or nothing
  const Json options_;
  const bool own_client_;
  std::shared_ptr<const ParameterLayout> layout_;
  mutable std::vector<std::string> payloads_;
};

// The options of a section that are this strategy's, with the defaults of its class; of the
// defaults' types.
Json options_of(const Json& defaults, const ConfigSection& section,
                const std::vector<std::string>& other_keys) {
  Json out = defaults;
  if (section.table == nullptr) return out;
  for (const auto& [key, value] : section.table->items()) {
    const auto known = defaults.find(key);
    if (known == defaults.end()) {
      if (std::find(other_keys.begin(), other_keys.end(), key) != other_keys.end()) continue;
      std::vector<std::string> names = other_keys;
      for (const auto& [name, ignored] : defaults.items()) names.push_back(name);
      fail("config", unknown_name_message("key", section.key(key), names));
    }
    const bool fits = known->is_number_float() ? value.is_number() : value.type() == known->type();
    if (!fits && !(known->is_number_integer() && value.is_number_integer()))
      fail("config", "expected ", section.key(key), " as ", known->type_name(), ", got ",
           value.dump());
    out[key] = known->is_number_float() ? Json(value.get<double>()) : value;
  }
  return out;
}

py::dict dict_of(const Json& options) {
  return py::module_::import("json").attr("loads")(options.dump());
}

// A class and the defaults of its options. Lives as long as the program: rows are never taken away.
struct Registered {
  py::object cls;
  Json defaults;
  bool own_client;
};

// The newest of each name. With the interpreter's lock held.
std::map<std::string, const Registered*>& registered() {
  static std::map<std::string, const Registered*> classes;
  return classes;
}

const Registered& newest(const std::string& name) {
  const py::gil_scoped_acquire lock;
  return *registered().at(name);
}

void register_python(const std::string& name, const py::object& cls, const std::string& summary,
                     const std::string& defaults_text, bool own_client) {
  auto made = std::make_unique<const Registered>(cls, json_of(defaults_text), own_client);
  strategy::StrategyRow row;
  row.name = name;
  row.summary = summary;
  row.create =
      [=](const ConfigSection& section,
          const std::vector<std::string>& other_keys) -> std::unique_ptr<strategy::Strategy> {
    const Registered& known = newest(name);
    const Json options = options_of(known.defaults, section, other_keys);
    return with_python(name, [&]() -> std::unique_ptr<strategy::Strategy> {
      return std::make_unique<PythonStrategy>(name, known.cls(**dict_of(options)), options,
                                              known.own_client);
    });
  };
  row.resolve = [=](const ConfigSection& section, const std::vector<std::string>& other_keys,
                    Json& table) {
    const Json options = options_of(newest(name).defaults, section, other_keys);
    for (const auto& [key, value] : options.items()) table[key] = value;
  };
  row.describe = [=] {
    std::vector<FieldHelp> fields;
    for (const auto& [key, value] : newest(name).defaults.items())
      fields.push_back({key, value.type_name(), value.dump(), "", false});
    return fields;
  };
  strategy::register_strategy(row);
  registered()[name] = made.release();
  static std::set<std::string> halves;
  if (!own_client || halves.contains(name)) return;
  client::AlgorithmRow half;
  half.name = "python:" + name;
  half.create =
      [=](const ConfigSection& section,
          const std::vector<std::string>& other_keys) -> std::unique_ptr<client::ClientAlgorithm> {
    const Registered& known = newest(name);
    const Json options = options_of(known.defaults, section, other_keys);
    return with_python(name, [&]() -> std::unique_ptr<client::ClientAlgorithm> {
      return std::make_unique<PythonClient>(name, known.cls(**dict_of(options)));
    });
  };
  half.describe = row.describe;
  strategy::register_client_algorithm(half);
  halves.insert(name);
}

}  // namespace

void add_strategies(py::module_& module) {
  py::class_<PythonUpdate>(module, "Update", "What a client returns.")
      .def_property_readonly("delta", &PythonUpdate::delta,
                             "Weights after the training minus before.")
      .def_property(
          "weight", [](const PythonUpdate& self) { return self.get().payloads[0].weight; },
          [](PythonUpdate& self, double weight) {
            self.get().payloads[0].weight = self.checked(weight);
          },
          "Of delta in the round's mean, from 0 to num_samples (or 1); num_samples unless it is "
          "set.")
      .def_property_readonly(
          "num_samples", [](const PythonUpdate& self) { return self.get().num_samples; },
          "Of the client.")
      .def_property_readonly(
          "steps", [](const PythonUpdate& self) { return self.get().scalar("steps"); },
          "Optimizer steps of the training.")
      .def(
          "add",
          [](PythonUpdate& self, const std::string& name, const py::object& values, double weight) {
            self.get().payloads.push_back(
                {name, parameters_in(values, name).share(), self.checked(weight)});
          },
          py::arg("name"), py::arg("values"), py::arg("weight") = 1.0,
          "One more payload, with a weight as delta's; the strategy's `payloads` names it.")
      .def(
          "add_scalar",
          [](PythonUpdate& self, const std::string& name, double value) {
            self.get().scalars[name] = value;
          },
          py::arg("name"), py::arg("value"), "One number; the server gets the sum over clients.");
  py::class_<PythonContext>(module, "Context", "What a client half works with during one task.")
      .def_property_readonly(
          "client",
          [](const PythonContext& self) {
            self.get();
            return self.task->client;
          },
          "Whose task this is.")
      .def_property_readonly(
          "round",
          [](const PythonContext& self) {
            self.get();
            return self.task->round;
          },
          "From 1.")
      .def_property_readonly(
          "lr",
          [](const PythonContext& self) {
            self.get();
            return self.task->train.lr;
          },
          "The round's learning rate.")
      .def_property_readonly(
          "num_samples", [](const PythonContext& self) { return self.get().samples.size(); },
          "Of this client, to train on.")
      .def_property_readonly(
          "key", [](const PythonContext& self) { return self.get().key.value(); },
          "A number that is this client's in this round: seed what is random with it.")
      .def_property_readonly(
          "remembered",
          [](const PythonContext& self) {
            py::dict out;
            if (const auto* previous = self.get().previous)
              for (const auto& [name, set] : previous->sets)
                out[py::str(name)] = Parameters::of(std::make_shared<const ParameterSet>(set));
            return out;
          },
          "What remember() kept in the client's last round, by name.")
      .def(
          "remember",
          [](const PythonContext& self, const std::string& name, const py::object& values) {
            self.get().next.sets.insert_or_assign(name,
                                                  ParameterSet(parameters_in(values, name).get()));
          },
          py::arg("name"), py::arg("values"),
          "Keeps parameters until the client's next round; needs client_state = True.")
      .def("train", &PythonContext::train, py::arg("before_step") = py::none(),
           py::arg("after_step") = py::none(),
           "The engine's own training of the task's model. before_step(weights, gradients) may "
           "change the gradients of a step, after_step(weights) the weights: views of one flat "
           "buffer, for the call alone.");
  module.def("register_strategy", &register_python);
}

}  // namespace espalier::python
