#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/byte_source.h"
#include "espalier/base/bytes.h"
#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/codec/codec.h"
#include "espalier/data/dataset.h"
#include "espalier/models/model_options.h"
#include "espalier/params/parameter_set.h"
#include "espalier/params/safetensors.h"
#include "espalier/strategy/round_sums.h"
#include "espalier/train/step_options.h"
#include "espalier/train/trainer.h"
#include "espalier/wire/task.h"

// A Strategy is the server's half of a federated algorithm; the client's half is a
// client::ClientAlgorithm, which a task names. To add one whose clients train as an existing one's
// do: write <name>.cpp and <name>_test.cpp, add its row to registry.cpp and its file to
// CMakeLists.txt. With a client half of its own: <name>_client.cpp beside it, a row in
// client_algorithms.cpp.
namespace espalier::strategy {

// Tasks and updates are what strategies are about; their words are used here unqualified.
using namespace wire;

struct RoundInfo {
  uint32_t round = 0;        // 1-based
  uint32_t num_rounds = 0;   // of the whole run
  Key key{0};                // of this round
  train::StepOptions train;  // with this round's learning rate
  bool evaluates = false;    // whether the round ends with an evaluation
  // kExplore while the clients of explorers() explore before the round's training.
  TaskKind kind = TaskKind::kTrain;
};

// What a strategy must know at the start of a run. Made once, by who builds the run; what it points
// to outlives the strategy.
struct ServerSetup {
  std::shared_ptr<const ParameterLayout> layout;  // of the clients' model
  // That may be selected: what is averaged over all clients is over these. For evaluate_saved():
  // that there are.
  uint64_t num_clients = 0;
  // For strategies that train on the server.
  models::ModelOptions model = {};  // the clients'
  train::DataSpec data = {};
  train::StepOptions train = {};         // as configured, before schedules
  const codec::Codec* uplink = nullptr;  // what updates are encoded with
  size_t num_threads = 1;
  Key key{0};  // of the run
  // Where to put what does not fit into memory; made when it is needed. Empty: the system's
  // temporary folder.
  std::filesystem::path scratch = {};
};

// What a strategy declares of itself, constant over a run. Which options of a run go with which
// strategy follows from these alone (round/refusals.h).
struct Traits {
  // Whether the client half remembers something between rounds.
  bool client_state = false;
  // Whether tasks or updates may carry masks: what a client remembers of a round then need not fit
  // the next, which rules out error feedback with estimates and differences of models.
  bool masks = false;
  // What a person may do instead of giving up what masks rule out, e.g. "set strategy.x = false".
  std::string masks_advice = {};
  // Whether clients send changes of the model's weights. If not, they send something that does not
  // repeat (FedGKT's feature maps) and the model consists of parts that only the strategy can
  // evaluate.
  bool weights_travel = true;
  // Whether updates also carry increments of what the server adds up over the rounds (SCAFFOLD's
  // Δc), which rules out error feedback with estimates: those go on saying what a client said last.
  bool increments = false;
  // Whether check() and accumulate() are the defaults during a round's training, so that updates
  // may be added where they are made, by whoever has them (round/partial_sums.h).
  bool plain_sums = false;
};

// What the last round has to say beyond its sums.
struct RoundReport {
  std::map<std::string, double> figures;  // for its line of metrics
  std::vector<std::string> notes;         // what a person should know, each said once
};

// ---- capabilities: what only some strategies need. A strategy hands out those that it has; all
// are called from the round's thread unless said otherwise.

// Works before a round. A round that fails restores what Strategy::save() has.
class Preparation {
 public:
  virtual ~Preparation() = default;
  // Called first; may change the global parameters.
  virtual void begin_round(const RoundInfo& round, ParameterSet& global) = 0;
  // How many clients (0: none; at most all), drawn at random, explore before the round, in an
  // exchange of tasks and updates of its own (RoundInfo::kind) whose bytes, products and time the
  // ledger has; Strategy::finish() gets its sums first.
  virtual uint64_t explorers(const RoundInfo& round) const = 0;
};

// Takes updates as they came, encoded (Payload::encoded), instead of decoded.
class EncodedUpdates {
 public:
  virtual ~EncodedUpdates() = default;
  // Largest payload, in values, that a client of this many samples may send with a layout of its
  // own; checked before anything is allocated for it. Any thread.
  virtual int64_t max_values(const ParameterLayout& layout, double num_samples) const = 0;
};

// Removes units from the model.
class Narrowing {
 public:
  virtual ~Narrowing() = default;
  // The part that is left; null: all of it. What is evaluated, and what computes the same as the
  // global parameters.
  virtual std::shared_ptr<const submodel::Submodel> part() const = 0;
};

// A model as a run leaves it, and what it is evaluated on.
struct SavedModel {
  const SafetensorsFile& file;
  const data::DataSource& data;
  train::Trainer& client;  // a replica of the clients' model
};

// What a strategy has found of its own model.
struct OwnEvaluation {
  train::EvalSums sums;  // over test samples; products are the server's
  double seconds = 0;    // of the server
};
struct SavedEvaluation {
  train::EvalSums sums;
  // Of the server's part, beside the client's net.
  int64_t server_parameters = 0;
  uint64_t server_macs_per_sample = 0;
  std::string note;  // how this differs from what a round evaluates
};

// The model is not the global parameters: the strategy evaluates it itself.
class OwnModel {
 public:
  virtual ~OwnModel() = default;
  // What finish() has found when RoundInfo::evaluates.
  virtual OwnEvaluation evaluated() const = 0;
  // The tensors that travel instead of the weights' changes, those of one sample where there are
  // many; after start(). `down` beside the model, which travels too.
  struct Travelling {
    std::shared_ptr<const ParameterLayout> down, up;
    std::string what;  // the bulk of what goes up: "feature map"
    std::shared_ptr<const ParameterLayout> bulk;
  };
  virtual Travelling travelling() const = 0;
  // What the saved model consists of besides the global parameters, by name; "server" becomes the
  // tensors "server/…" of the file.
  virtual std::map<std::string, ParameterSet> parts() const = 0;
  // The set of a client's state that belongs to the model too ("client-3/…"); empty: none.
  virtual std::string client_set() const = 0;
  // A saved model on the test samples. After start(). Throws Error when a part is missing or does
  // not fit.
  virtual SavedEvaluation evaluate_saved(const SavedModel& saved) = 0;
};

// The state is too long to be held a second time: checkpoints write and read it piece by piece. The
// bytes are those of Strategy::save() and load().
class LongState {
 public:
  virtual ~LongState() = default;
  // Parts of it are read where they lie: valid until the strategy is called for anything else.
  virtual ByteSource saved() const = 0;
  // As load(), of all that `in` has; `in` does not read from this strategy. After an Error the
  // strategy is of no use until it is started again.
  virtual void restore(SourceReader& in) = 0;
};

// Null: the strategy does without. What is pointed to lives as long as the strategy.
struct Capabilities {
  Preparation* preparation = nullptr;
  EncodedUpdates* encoded_updates = nullptr;
  Narrowing* narrowing = nullptr;
  OwnModel* own_model = nullptr;
  LongState* long_state = nullptr;
};

// Throws Error unless an update of a client with so many samples carries exactly the payloads
// `expected`, with this layout and weights of at most the samples (or 1).
void check_payloads(std::vector<std::string> expected, const ParameterLayout& layout,
                    double num_samples, const Update& update);

// Called from one thread unless said otherwise.
class Strategy {
 public:
  virtual ~Strategy() = default;
  Strategy() = default;
  Strategy(const Strategy&) = delete;
  Strategy& operator=(const Strategy&) = delete;

  virtual Traits traits() const { return {}; }
  virtual Capabilities capabilities() { return {}; }

  // Before the first round, also before load(). Throws Error when model or options do not fit.
  virtual void start(const ServerSetup& setup) = 0;
  // Fills algorithm, options, payloads and scalars of a task; round, client, version and train
  // options are set. Asked again for the same client of the same round it says the same. `global`
  // is shared, not copied. Throws Error when the training options do not suit the strategy.
  virtual void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                         Task& task) = 0;
  // What an update of this round must carry: exactly these payloads, each with the model's layout.
  // Anything else is that client's failure. Any thread.
  virtual std::vector<std::string> update_payloads(const RoundInfo& round) const;
  // Throws Error when an update's payloads are not what the strategy expects; a peer may send
  // anything. `layout` is that of what the client was sent, num_samples what it holds. The default
  // is check_payloads() of update_payloads(). Any thread.
  virtual void check(const RoundInfo& round, const ParameterLayout& layout, double num_samples,
                     const Update& update) const;
  // One update has arrived, was decoded and checked; any thread. The default adds it to the sums.
  // When it throws Error, the update counts for nothing.
  virtual void accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                          RoundSums& sums);
  // All updates are in (at least one): change the global parameters. Called for an exploration too.
  virtual void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) = 0;
  virtual RoundReport take_report() { return {}; }

  // The server's state between rounds, for checkpoints: load(save()) restores it exactly. load()
  // throws Error for bytes that are no such state. The default has none.
  virtual void save(ByteWriter& out) const;
  virtual void load(ByteReader& in);
};

// ---- registry
struct StrategyRow {
  std::string name;
  std::string summary;  // one line, with the paper
  // From the strategy's own keys of [strategy]; `other_keys` of the section belong to somebody
  // else.
  std::function<std::unique_ptr<Strategy>(const ConfigSection& section,
                                          const std::vector<std::string>& other_keys)>
      create;
  // Appends the resolved keys to `table`.
  std::function<void(const ConfigSection& section, const std::vector<std::string>& other_keys,
                     Json& table)>
      resolve;
  std::function<std::vector<FieldHelp>()> describe;
};
const std::vector<StrategyRow>& strategy_rows();
// One more, of the program's own (Python's strategies), or another one of that name in its place;
// built-in names stay. Rows that were found before stay where they are. Not while another thread
// looks for one. Throws Error for a built-in's name, and for the 257th row.
void register_strategy(StrategyRow row);
// An Error that names the nearest known one.
const StrategyRow& find_strategy(const std::string& name);

// Makes the row of a strategy class with a nested `Options` struct and a constructor that takes it.
template <class T>
StrategyRow strategy_row(std::string name, std::string summary) {
  return {
      std::move(name), std::move(summary),
      [](const ConfigSection& section,
         const std::vector<std::string>& other_keys) -> std::unique_ptr<Strategy> {
        typename T::Options options;
        read_options(section, other_keys, options);
        return std::make_unique<T>(options);
      },
      [](const ConfigSection& section, const std::vector<std::string>& other_keys, Json& table) {
        typename T::Options options;
        read_options(section, other_keys, options);
        refuse_idle("strategy", idle_options(options));
        write_options(options, table);
      },
      [] { return describe_options<typename T::Options>(); }};
}

}  // namespace espalier::strategy
