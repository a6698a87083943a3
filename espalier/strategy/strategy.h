#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/codec/codec.h"
#include "espalier/data/dataset.h"
#include "espalier/params/exact_sum.h"
#include "espalier/params/safetensors.h"
#include "espalier/strategy/task.h"
#include "espalier/train/trainer.h"

// A Strategy is a federated algorithm, its server half and its client half in one file. To add one:
// write <name>.cpp and <name>_test.cpp here, add its row to registry.cpp and its file to
// CMakeLists.txt.
namespace espalier::strategy {

struct RoundInfo {
  uint32_t round = 0;         // 1-based
  uint32_t num_rounds = 0;    // of the whole run
  Key key{0};                 // of this round
  train::TrainOptions train;  // with this round's learning rate
  bool evaluates = false;     // whether the round ends with an evaluation
  // kExplore while the clients of explorers() explore before the round's training.
  TaskKind kind = TaskKind::kTrain;
};

// How updates of sub-models become one mean. kZero (Caldas et al. 2018): a value outside a client's
// sub-model counts as a zero update, so the mean divides by the weight of all clients. kCount
// (HeteroFL): every value is divided by the weight of the clients that trained it.
enum class Aggregation : uint8_t { kZero, kCount };

// The sums of one round, in O(model) memory whatever the number of clients. Thread-safe while
// updates arrive.
class RoundSums {
 public:
  // At most `max_clients` updates; no weight above `max_weight`.
  RoundSums(uint64_t max_clients, double max_weight, Aggregation aggregation = Aggregation::kZero)
      : max_clients_(max_clients), max_weight_(max_weight), aggregation_(aggregation) {}

  // Adds all payloads of an update and keeps its scalars. Either everything is added or, with an
  // Error, nothing.
  void add(uint64_t client, const Update& update);

  // EF21: the mean of a payload becomes estimate + Σ x / num_clients, where the estimate is the
  // mean of what all clients have said so far (absent: 0) and x are this round's corrections. What
  // is not trained stays the mean of who answered. `estimates` must outlive this. Before any add().
  void use_estimates(const std::map<std::string, ParameterSet>& estimates, uint64_t num_clients) {
    estimates_ = &estimates;
    estimated_clients_ = num_clients;
  }
  std::vector<std::string> payloads() const;

  // Σ weight·x of a payload; nullptr when no update carried it.
  const ExactAccumulator* find(const std::string& payload) const;
  // The weighted mean of a payload; an Error when nobody sent it or all weights were 0. A value
  // that no client covered is −0, so that adding the mean leaves every bit of it.
  ParameterSet mean(const std::string& payload,
                    const std::shared_ptr<const ParameterLayout>& layout) const;

  uint64_t num_updates() const { return by_client_.size(); }
  // The parts of the model that the clients trained; nothing when one trained all of it.
  std::optional<std::vector<std::shared_ptr<const submodel::Submodel>>> submodels() const;
  // Σ num_samples over clients.
  double total_samples() const;
  // Σ_k num_samples_k·s_k / Σ_k num_samples_k, and Σ_k s_k, added in the order of client numbers.
  double weighted_mean(const std::string& scalar) const;
  double sum(const std::string& scalar) const;

 private:
  struct Scalars {
    double num_samples;
    std::map<std::string, double> values;
    std::shared_ptr<const submodel::Submodel> submodel;
    std::map<std::string, double> weights;  // by payload
  };
  uint64_t max_clients_;
  double max_weight_;
  Aggregation aggregation_;
  const std::map<std::string, ParameterSet>* estimates_ = nullptr;
  uint64_t estimated_clients_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, std::unique_ptr<ExactAccumulator>> sums_;
  std::map<uint64_t, Scalars> by_client_;
  std::set<uint64_t> answering_;  // who has answered or is being added
};

// What a strategy must know at the start of a run.
struct ServerSetup {
  std::shared_ptr<const ParameterLayout> layout;  // of the clients' model
  uint64_t num_clients = 0;
  // For strategies that train on the server.
  train::ModelOptions model = {};  // the clients'
  train::DataSpec data = {};
  train::TrainOptions train = {};        // as configured, before schedules
  const codec::Codec* uplink = nullptr;  // what updates are encoded with
  size_t num_threads = 1;
  Key key{0};  // of the run
};

// A model as a run leaves it, and what it is evaluated on.
struct SavedModel {
  const SafetensorsFile& file;
  const data::DataSource& data;
  train::Trainer& client;  // a replica of the clients' model
};

// What a client works with. Owned by the worker that runs it.
struct ClientContext {
  train::Trainer& trainer;
  const data::Dataset& dataset;
  std::span<const uint32_t> samples;
  Key key;                      // of this client in this round
  const ClientState* previous;  // state as of Task::state_version; null when the client has none
  ClientState next;             // what the client will remember; empty keeps nothing
  // Samples that the client holds out, for strategies whose models only clients can evaluate.
  const data::Dataset* test = nullptr;
  std::span<const uint32_t> test_samples = {};
};

class Strategy {
 public:
  virtual ~Strategy() = default;
  Strategy() = default;
  Strategy(const Strategy&) = delete;
  Strategy& operator=(const Strategy&) = delete;

  // ---- server half; called from one thread unless said otherwise
  // Before the first round, also before load().
  virtual void start(const ServerSetup& setup) = 0;
  // Where to put what does not fit into memory; before the first round. The default needs none.
  virtual void set_scratch(const std::filesystem::path& folder);
  // Before a round, in this order: begin_round() may change the global parameters; then so many
  // clients (0: none; at most all), drawn at random, explore, in an exchange of tasks and updates
  // of its own (RoundInfo::kind) whose bytes, products and time the ledger has; finish() gets its
  // sums first. A strategy that does any of this says so with prepares(), and a round that fails
  // restores what save() has.
  virtual bool prepares() const { return false; }
  virtual void begin_round(const RoundInfo& round, ParameterSet& global);
  virtual uint64_t explorers(const RoundInfo& round) const;
  // Fills payloads and scalars of a task; round, client, version and train options are set.
  // `global` is shared, not copied.
  virtual void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                         Task& task) = 0;
  // What an update of this round must carry: exactly these payloads, each with the model's layout.
  // Anything else is that client's failure.
  virtual std::vector<std::string> update_payloads(const RoundInfo& round) const;
  // Throws Error when an update's payloads are not what the strategy expects; a peer may send
  // anything. `layout` is that of what the client was sent, num_samples what it holds. The default
  // checks update_payloads().
  virtual void check(const RoundInfo& round, const ParameterLayout& layout, double num_samples,
                     const Update& update) const;
  // Largest payload, in values, that a client of this many samples may send with a layout of its
  // own; the default allows none.
  virtual int64_t max_values(const ParameterLayout& layout, double num_samples) const;
  // Whether updates are handed over as they came, encoded (Payload::encoded), instead of decoded.
  virtual bool keeps_encoded() const { return false; }
  // One update has arrived, was decoded and checked; any thread. The default adds it to the sums.
  virtual void accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                          RoundSums& sums);
  // All updates are in (at least one): change the global parameters. Called for an exploration too.
  virtual void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) = 0;
  // Strategies whose model is not the global parameters evaluate it themselves in finish(), when
  // RoundInfo::evaluates: the sums over test samples, or nothing, and then the backend evaluates
  // the global parameters.
  virtual std::optional<train::EvalSums> evaluated() const { return std::nullopt; }
  // The part of the model that is left, for strategies that remove units; null: all of it. What
  // is evaluated, and what computes the same as the global parameters.
  virtual std::shared_ptr<const submodel::Submodel> part() const { return nullptr; }
  // Whether tasks or updates may carry masks: what a client remembers of a round then need not fit
  // the next, which rules out error feedback with estimates and differences of models.
  virtual bool masks() const { return false; }
  // Further figures of the last round for its line of metrics.
  virtual std::map<std::string, double> metrics() const { return {}; }
  // What a person should know of the last round, once.
  virtual std::vector<std::string> take_notes() { return {}; }
  // What the saved model consists of besides the global parameters, by name; "server" becomes the
  // tensors "server/…" of the file.
  virtual std::map<std::string, ParameterSet> model_parts() const { return {}; }
  // The set of a client's state that belongs to the model too ("client-3/…"); empty: none.
  virtual std::string saved_client_set() const { return {}; }
  // The sums over test samples of a model that has such parts; nothing when the global parameters
  // are the model. After start(). Throws Error when a part is missing or does not fit.
  virtual std::optional<train::EvalSums> evaluate_saved(const SavedModel& saved);
  // The server's state between rounds, for checkpoints: load(save()) restores it exactly. The
  // default has none.
  virtual void save(ByteWriter& out) const;
  virtual void load(ByteReader& in);

  // ---- client half; any thread, many at a time, so const
  virtual Update run_client(ClientContext& context, const Task& task) const = 0;
  // Whether clients remember anything between rounds.
  virtual bool has_client_state() const { return false; }
};

// ---- registry
struct StrategyRow {
  std::string name;
  std::string summary;  // one line, with the paper
  // From the strategy's own keys of [strategy]; `other_keys` of the section belong to somebody
  // else.
  std::unique_ptr<Strategy> (*create)(const ConfigSection& section,
                                      const std::vector<std::string>& other_keys);
  // Appends the resolved keys to `table`.
  void (*resolve)(const ConfigSection& section, const std::vector<std::string>& other_keys,
                  Json& table);
  std::vector<FieldHelp> (*describe)();
};
const std::vector<StrategyRow>& strategy_rows();
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
        write_options(options, table);
      },
      [] { return describe_options<typename T::Options>(); }};
}

}  // namespace espalier::strategy
