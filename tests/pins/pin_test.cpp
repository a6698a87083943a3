// Pins: what short runs of every strategy end with, byte for byte, so that a change of structure
// that is meant to change nothing is seen to change nothing. pins.txt holds a line per run: name,
// digest of model and metrics, digest of the messages' bodies, digest of whole messages (which
// changes with their version) and of what was counted. A change that is meant to change results
// replaces the lines (ESPALIER_WRITE_PINS=FILE pin_test) and says so in its commit.
//
// Floating-point results depend on the instruction set: oneDNN is held to AVX2, our own kernels
// give the same bits with AVX2 and AVX-512, and machines without AVX2 skip the test.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "espalier/models/process.h"
#include "espalier/sim/test_run.h"

namespace espalier::sim {
namespace {

using Assignments = std::vector<std::string>;

class Digest {
 public:
  void add(std::span<const uint8_t> bytes) {
    for (const uint8_t byte : bytes) value_ = (value_ ^ byte) * 0x100000001b3u;
  }
  template <class T>
  void add_value(const T& value) {
    add({reinterpret_cast<const uint8_t*>(&value), sizeof(value)});
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325u;
};

struct Pinned {
  std::string name, strategy;
  Assignments assignments;
};

void PrintTo(const Pinned& row, std::ostream* out) { *out << row.name; }

const std::string kQuantize = R"([{stage="hadamard"},{stage="quantize",bits=4}])";
const std::string kTopk = R"([{stage="topk",keep=0.1}])";

// What a strategy needs of model and data.
Assignments needs(const std::string& strategy) {
  if (strategy == "adp")
    return {"data.synthetic_shape=[1,12,12]", "model.name=cnn", "model.width=0.25",
            "model.gates=gated"};
  if (strategy == "autoflip") return {"strategy.exploration_epochs=3"};
  if (strategy != "fedgkt") return {};
  return {"data.synthetic_shape=[1,12,12]", "data.synthetic_train_samples=200",
          "model.name=small-client",        "strategy.server_model=small-server",
          "strategy.server_epochs=1",       "strategy.server_batch_size=20"};
}

std::vector<Pinned> pinned() {
  std::vector<Pinned> all;
  for (const auto& row : strategy::strategy_rows()) {
    all.push_back({row.name, row.name, needs(row.name)});
    Assignments coded = needs(row.name);
    // Tensors of fewer than 512 values are not coded.
    if (coded.empty() || row.name == "autoflip") coded.push_back("model.hidden=[128]");
    coded.push_back("downlink=" + kQuantize);
    coded.push_back("uplink=" + kQuantize);
    all.push_back({row.name + "_coded", row.name, std::move(coded)});
  }
  const Assignments images = {"data.synthetic_shape=[1,12,12]", "model.name=resnet8"};
  const auto also = [&](const std::string& name, const std::string& strategy, Assignments base,
                        const Assignments& more) {
    base.insert(base.end(), more.begin(), more.end());
    all.push_back({name, strategy, std::move(base)});
  };
  const Assignments half = {"submodel.name=federated-dropout", "submodel.keep=0.6"};
  also("federated_dropout", "fedavg", images, half);
  also("federated_dropout_count", "fedavgm", half, {"submodel.aggregation=count"});
  also("heterofl", "fedavg", images,
       {"submodel.name=ordered", "submodel.keep=0.5", "submodel.scaler=true",
        "submodel.masked_cross_entropy=true", "submodel.static_batch_norm=true",
        "submodel.eval_widths=[0.5]", R"(devices=[{name="a",keep=1},{name="b"}])"});
  also("fjord", "fedavg", images,
       {"submodel.name=ordered", "submodel.keep=0.8", "submodel.widths=[0.25,0.5]",
        "submodel.self_distillation=0.5"});
  also("scaffold_ordered", "scaffold", {}, {"submodel.name=ordered", "submodel.keep=0.5"});
  const Assignments wide = {"model.hidden=[128]"};
  also("residual", "fedavg", wide, {"uplink=" + kTopk});
  also("ef21", "fedprox", wide,
       {"uplink=" + kTopk, "error_feedback=ef21", "strategy.clients_per_round=12"});
  also("delta_downlink", "fedavg", wide,
       {"downlink=" + kQuantize, "delta_downlink=true", "strategy.clients_per_round=11"});
  also("structured_autoflip", "autoflip", {"data.synthetic_shape=[1,12,12]", "model.name=cnn"},
       {"model.width=0.25", "strategy.exploration_epochs=2", "strategy.by_unit=true",
        "strategy.unit_threshold=0.5", "strategy.sparsity=0.5", "strategy.min_keep=0.1",
        "strategy.refresh_rounds=1", "strategy.agreement=0.3", "uplink=" + kTopk});
  also("prunefl", "pruning", {},
       {"strategy.criterion=prunefl", "strategy.exploration_epochs=2", "rounds=3",
        "strategy.refresh_rounds=1"});
  also("gradual", "pruning", {}, {"strategy.end_round=4", "rounds=4"});
  also("random_step", "pruning", {}, {"strategy.criterion=random-step"});
  also("adp_scaffold", "adp", needs("adp"), {"strategy.base=scaffold"});
  also("adp_magnitude", "adp", {}, {"strategy.mode=magnitude", "strategy.base=fednova"});
  also("asynchronous_fedgkt", "fedgkt", needs("fedgkt"),
       {"strategy.mode=asynchronous", "strategy.sample_fraction=0.5", "rounds=3",
        "strategy.clip_features=5", "strategy.feature_noise=0.1"});
  also("adam", "fedavg", images,
       {"train.optimizer=adam", "train.lr=0.01", "train.clip_norm=1", "train.crop_padding=1",
        "train.flip=true", "train.lr_schedule=cosine"});
  also("text", "fedavg", {},
       {"data.name=leaf", "data.root=" ESPALIER_FIXTURES "/text", "data.partition.name=natural",
        "model.name=lstm", "model.lstm_units=8", "model.embedding=4",
        "strategy.clients_per_round=2"});
  return all;
}

// Carries the round's traffic on and notes what passes. The seconds that an update tells are no
// part of its digest: bodies and sizes are.
class Recorder final : public round::Backend {
 public:
  explicit Recorder(round::Backend& backend) : backend_(backend) {}
  uint64_t num_clients() const override { return backend_.num_clients(); }
  uint64_t num_samples(uint64_t client) const override { return backend_.num_samples(client); }
  void run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) override {
    Tap tap{traffic, {}, {}, {}};
    backend_.run(clients, tap);
    for (const auto& [client, digest] : tap.bodies) bodies_.add_value(digest);
    for (const auto& [client, digest] : tap.tasks) digest_.add_value(digest);
    for (const auto& [client, digest] : tap.updates) digest_.add_value(digest);
  }
  void make_durable() override { backend_.make_durable(); }
  void commit(uint32_t round, const std::map<uint64_t, uint32_t>& versions) override {
    backend_.commit(round, versions);
  }
  void release_memory() override { backend_.release_memory(); }
  uint64_t digest() const { return digest_.value(); }
  uint64_t bodies() const { return bodies_.value(); }

 private:
  struct Tap final : round::RoundTraffic {
    using Digests = std::map<uint64_t, uint64_t>;
    Tap(round::RoundTraffic& to, Digests t, Digests u, Digests b)
        : traffic(to), tasks(std::move(t)), updates(std::move(u)), bodies(std::move(b)) {}
    uint64_t body_digest(const wire::EncodedMessage& message) const {
      Digest digest;
      for (const auto& body : message.bodies) digest.add(*body);
      return digest.value();
    }
    round::ExchangeId id() const override { return traffic.id(); }
    wire::EncodedMessage task(uint64_t client) override {
      wire::EncodedMessage message = traffic.task(client);
      Digest digest;
      digest.add(message.head);
      for (const auto& body : message.bodies) digest.add(*body);
      tasks[client] = digest.value();
      bodies[2 * client] = body_digest(message);
      return message;
    }
    round::Receipt delivered(uint64_t client, const wire::EncodedMessage& update) override {
      Digest digest;
      digest.add_value(static_cast<uint64_t>(update.head.size()));
      for (const auto& body : update.bodies) digest.add(*body);
      updates[client] = digest.value();
      bodies[2 * client + 1] = body_digest(update);
      return traffic.delivered(client, update);
    }
    void failed(uint64_t client, const std::string& reason) override {
      traffic.failed(client, reason);
    }
    round::RoundTraffic& traffic;
    Digests tasks, updates, bodies;
  };
  round::Backend& backend_;
  Digest digest_, bodies_;
};

struct Found {
  uint64_t model = 0, bodies = 0, messages = 0;
  bool operator==(const Found&) const = default;
};

std::string line(const std::string& name, const Found& found) {
  std::ostringstream out;
  out << name << ' ' << std::hex << found.model << ' ' << found.bodies << ' ' << found.messages;
  return out.str();
}

Found run(const Pinned& row) {
  Assignments assignments = {"rounds=2"};
  assignments.insert(assignments.end(), row.assignments.begin(), row.assignments.end());
  std::optional<Recorder> recorder;
  TestRun run(row.strategy, 1, assignments, [&](round::Backend& backend) -> round::Backend& {
    return recorder.emplace(backend);
  });
  Digest digest;
  for (const float value : run.finish()) digest.add_value(value);
  EXPECT_EQ(run.loop().ledger().clients_failed, 0);
  digest.add_value(run.last().accuracy.value_or(-1));
  digest.add_value(run.last().loss.value_or(-1));
  digest.add_value(run.last().train_loss);
  for (const auto& [width, accuracy] : run.last().width_accuracy) digest.add_value(accuracy);
  Digest messages;
  messages.add_value(recorder->digest());
  messages.add_value(run.loop().ledger().bytes_down);
  messages.add_value(run.loop().ledger().bytes_up);
  messages.add_value(run.loop().ledger().macs);
  return {digest.value(), recorder->bodies(), messages.value()};
}

class Pin : public testing::TestWithParam<Pinned> {};

TEST_P(Pin, EndsWithTheSameBytes) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
#endif
    GTEST_SKIP() << "the pinned digests are those of machines with AVX2";
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "kernels are compiled without AVX2 under sanitizers";
#elif defined(ESPALIER_NO_CLONES) && !defined(__FMA__)
  GTEST_SKIP() << "kernels are compiled without AVX2 (ESPALIER_ISA)";
#endif
  const Found found = run(GetParam());
  if (const char* file = std::getenv("ESPALIER_WRITE_PINS"); file != nullptr) {
    std::ofstream(file, std::ios::app) << line(GetParam().name, found) << '\n';
    return;
  }
  std::ifstream pins(ESPALIER_PINS);
  std::string text;
  while (std::getline(pins, text)) {
    if (text.rfind(GetParam().name + ' ', 0) == 0) break;
  }
  EXPECT_EQ(text, line(GetParam().name, found));
}

INSTANTIATE_TEST_SUITE_P(Runs, Pin, testing::ValuesIn(pinned()),
                         [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace espalier::sim

int main(int argc, char** argv) {
  setenv("ONEDNN_MAX_CPU_ISA", "AVX2", 1);  // before oneDNN is used first
  espalier::models::configure_process();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
