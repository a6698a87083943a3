// The whole road of a round in one process: partition → task bytes → client → update bytes → exact
// sum → new weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/base/test_error.h"
#include "espalier/sim/test_run.h"

namespace espalier::sim {
namespace {

using testing::HasSubstr;

class EveryStrategy : public testing::TestWithParam<std::string> {
 protected:
  // FedGKT needs nets that are cut in two, ADP one with gates.
  static std::vector<std::string> model() {
    if (GetParam() == "adp")
      return {"data.synthetic_shape=[1,12,12]", "model.name=cnn", "model.width=0.25",
              "model.gates=gated"};
    if (GetParam() == "autoflip") return {"strategy.exploration_epochs=3"};
    if (GetParam() != "fedgkt") return {};
    return {"data.synthetic_shape=[1,12,12]", "data.synthetic_train_samples=200",
            "model.name=small-client",        "strategy.server_model=small-server",
            "strategy.server_epochs=1",       "strategy.server_batch_size=20"};
  }
};

TEST_P(EveryStrategy, OneTwoAndFiveThreadsGiveTheSameBytes) {
  TestRun one(GetParam(), 1, model());
  const auto expected = one.finish();
  for (size_t threads : {2, 5}) {
    TestRun other(GetParam(), threads, model());
    EXPECT_EQ(other.finish(), expected) << threads;
    EXPECT_EQ(other.last().accuracy, one.last().accuracy);
    EXPECT_EQ(other.last().loss, one.last().loss);
    EXPECT_EQ(other.loop().ledger().bytes_up, one.loop().ledger().bytes_up);
  }
}

TEST_P(EveryStrategy, ACheckpointInTheMiddleChangesNothing) {
  TestRun whole(GetParam(), 2, model());
  const auto expected = whole.finish();
  TestRun first(GetParam(), 2, model());
  first.loop().run_round();
  first.loop().run_round();
  const Bytes saved = encode_checkpoint(first.loop().checkpoint(1));
  // The same process plays the crashed one: a third round is run and then forgotten.
  first.loop().run_round();
  first.loop().restore(
      round::decode_checkpoint(saved, first.loop().global().shared_layout(), "test"));
  EXPECT_EQ(first.loop().rounds_completed(), 2u);
  EXPECT_EQ(first.finish(), expected);
}

// What clients hold out are the server's test samples, divided among them.
TEST(ClientEvaluation, OfAllClientsIsTheServersOwn) {
  TestRun server("fedavg", 2, {"strategy.clients_per_round=12"});
  TestRun clients("fedavg", 3, {"strategy.clients_per_round=12", "evaluate=clients"});
  EXPECT_EQ(server.finish(), clients.finish());
  EXPECT_EQ(*clients.last().accuracy, *server.last().accuracy);
  EXPECT_NEAR(*clients.last().loss, *server.last().loss, 1e-6);
  EXPECT_GT(clients.last().bytes_down, server.last().bytes_down);  // the model goes out twice
  EXPECT_LT(clients.last().bytes_up - server.last().bytes_up, 12U * 250);
  // What the rounds' training took is the same.
  const auto& evaluation = clients.last().evaluation;
  EXPECT_EQ(clients.last().bytes_down - evaluation.bytes_down, server.last().bytes_down);
  EXPECT_EQ(clients.last().bytes_up - evaluation.bytes_up, server.last().bytes_up);
  EXPECT_EQ(server.last().evaluation.bytes_down, 0U);
  // The products that the server would have done are the clients', and stand in their total.
  EXPECT_GT(evaluation.macs, 0);
  EXPECT_EQ(evaluation.macs, server.last().eval_macs);
  EXPECT_EQ(clients.last().macs - evaluation.macs, server.last().macs);
}

TEST(ClientEvaluation, CostsDevicesTheirTime) {
  const std::string devices = R"(devices=[{name="slow",gmacs_per_second=0.001}])";
  TestRun server("fedavg", 2, {devices, "strategy.clients_per_round=12"});
  TestRun clients("fedavg", 2, {devices, "strategy.clients_per_round=12", "evaluate=clients"});
  EXPECT_GT(clients.step().simulated.compute, server.step().simulated.compute);
}

// A codec for differences would make another model of it.
TEST(ClientEvaluation, IsOfTheModelItselfUnderDeltaDownlink) {
  const std::vector<std::string> links = {R"(downlink=[{stage="topk",keep=0.05}])",
                                          "delta_downlink=true", "strategy.clients_per_round=12",
                                          "model.hidden=[128]"};
  TestRun server("fedavg", 2, links);
  std::vector<std::string> asked = links;
  asked.push_back("evaluate=clients");
  TestRun clients("fedavg", 2, asked);
  EXPECT_EQ(server.finish(), clients.finish());
  EXPECT_EQ(*clients.last().accuracy, *server.last().accuracy);
  EXPECT_NEAR(*clients.last().loss, *server.last().loss, 1e-6);
}

// Δc says what is new, and would be added up again and again as an estimate of the last one.
TEST(Scaffold, DoesNotGoWithEstimates) {
  EXPECT_THAT(
      error_of([] {
        TestRun("scaffold", 1, {R"(uplink=[{stage="topk",keep=0.1}])", "error_feedback=ef21"});
      }),
      HasSubstr("set it to \"auto\""));
}

// Means over all clients are over those that may be selected.
TEST(OneDevice, IsAllThatThereIs) {
  const std::vector<std::string> base = {R"(devices=[{name="a",share=3},{name="b",share=1}])",
                                         "strategy.device=b", "strategy.clients_per_round=3",
                                         "strategy.weighting=uniform"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), base.begin(), base.end());
    return more;
  };
  // All of them take part and nothing is lost: estimates are what they say.
  TestRun plain("fedavg", 2, with({})), estimated("fedavg", 2, with({"error_feedback=ef21"}));
  const auto expected = plain.finish(), found = estimated.finish();
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-4) << i;
  // c is the mean of all c_k.
  TestRun scaffold("scaffold", 2, with({}));
  scaffold.step();
  const Bytes saved = scaffold.loop().checkpoint(1).strategy.bytes();
  ByteReader in(saved, "test");
  ParameterSet control(scaffold.loop().global().shared_layout());
  read_values(in, control);
  ParameterSet mean(control.shared_layout());
  for (const auto& [client, version] : scaffold.loop().state_versions())
    add_scaled(mean.values(), 1.0f / 3,
               scaffold.states().get(client, version)->sets.at("control").values());
  for (size_t i = 0; i < mean.size(); ++i)
    ASSERT_NEAR(control.values()[i], mean.values()[i], 1e-5) << i;
  TestRun autoflip("autoflip", 2,
                   with({"strategy.explorers=0.4", "strategy.exploration_epochs=1"}));
  EXPECT_EQ(autoflip.step().exploration.clients, 2U);  // ⌈0.4·3⌉
}

TEST(ClientEvaluation, AsksSoManyAndDrawsThemAnew) {
  TestRun some("scaffold", 1, {"evaluate=clients", "eval_clients=3"});
  TestRun again("scaffold", 4, {"evaluate=clients", "eval_clients=3"});
  TestRun other("scaffold", 1, {});
  EXPECT_EQ(some.finish(), other.finish());  // who evaluates changes nothing of the training
  again.finish();
  EXPECT_EQ(*some.last().accuracy, *again.last().accuracy);
  EXPECT_EQ(*some.last().loss, *again.last().loss);
  TestRun none("fedavg", 1, {"evaluate=none"});
  none.finish();
  EXPECT_FALSE(none.last().accuracy.has_value());
}

TEST(ClientEvaluation, IsRefusedWhereItMeansNothing) {
  EXPECT_THAT(error_of([] { TestRun("fedavg", 1, {"eval_clients=3"}); }),
              HasSubstr("eval_clients"));
  EXPECT_THAT(error_of([] {
                TestRun("fedgkt", 1,
                        {"data.synthetic_shape=[1,12,12]", "model.name=small-client",
                         "strategy.server_model=small-server", "evaluate=clients"});
              }),
              HasSubstr("evaluates by itself"));
}

TEST(Recall, BringsBackWhatClientsRemember) {
  TestRun run("fedgkt", 2,
              {"data.synthetic_shape=[1,12,12]", "data.synthetic_train_samples=200",
               "model.name=small-client", "strategy.server_model=small-server",
               "strategy.server_epochs=1", "strategy.server_batch_size=20"});
  run.finish();
  std::vector<std::string> notes;
  const auto found = run.loop().recall("net", notes);
  EXPECT_TRUE(notes.empty());
  ASSERT_EQ(found.size(), run.loop().state_versions().size());
  for (const auto& [client, version] : run.loop().state_versions()) {
    const auto state = run.states().get(client, version);
    EXPECT_TRUE(std::ranges::equal(found.at(client).values(), state->sets.at("net").values()));
  }
  const auto nothing = run.loop().recall("diary", notes);
  EXPECT_TRUE(nothing.empty());
  EXPECT_EQ(notes.size(), run.loop().state_versions().size());
  EXPECT_THAT(notes.front(), HasSubstr("remembers no 'diary'"));
}

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const auto& row : strategy::strategy_rows()) out.push_back(row.name);
  return out;
}
INSTANTIATE_TEST_SUITE_P(Registry, EveryStrategy, testing::ValuesIn(names()),
                         [](const auto& row) { return row.param; });

// How the links are set up, with a name for the test.
struct Link {
  std::string name;
  std::vector<std::string> assignments;
};
class EveryLink : public testing::TestWithParam<Link> {};

TEST_P(EveryLink, ThreadsAndCheckpointsChangeNothingAndItLearns) {
  std::vector<std::string> assignments = GetParam().assignments;
  assignments.push_back("rounds=12");
  assignments.push_back("model.hidden=[128]");
  TestRun one("fedavg", 1, assignments);
  const auto expected = one.finish();
  EXPECT_GT(*one.last().accuracy, 0.4);
  TestRun five("fedavg", 5, assignments);
  EXPECT_EQ(five.finish(), expected);
  TestRun crashed("fedavg", 2, assignments);
  for (int i = 0; i < 7; ++i) crashed.loop().run_round();
  const Bytes saved = encode_checkpoint(crashed.loop().checkpoint(1));
  crashed.loop().run_round();
  crashed.loop().restore(
      round::decode_checkpoint(saved, crashed.loop().global().shared_layout(), "test"));
  EXPECT_EQ(crashed.finish(), expected);
}

const std::string kQuantize = R"([{stage="hadamard"},{stage="quantize",bits=4}])";
const std::string kTopk = R"([{stage="topk",keep=0.1}])";
INSTANTIATE_TEST_SUITE_P(
    Links, EveryLink,
    testing::Values(
        Link{"lossy_both_ways", {"downlink=" + kQuantize, "uplink=" + kQuantize}},
        Link{"topk_without_feedback", {"uplink=" + kTopk, "error_feedback=none"}},
        Link{"topk_with_residual", {"uplink=" + kTopk}},
        Link{"topk_with_ef21",
             {"uplink=" + kTopk, "error_feedback=ef21", "strategy.clients_per_round=12"}},
        Link{"delta_downlink",
             {"downlink=" + kQuantize, "delta_downlink=true", "strategy.clients_per_round=11"}}),
    [](const auto& row) { return row.param.name; });

TEST(Simulation, LossyLinksCostFewerBytes) {
  TestRun dense("fedavg", 2, {"model.hidden=[256]"}),
      lossy("fedavg", 2, {"model.hidden=[256]", "downlink=" + kQuantize, "uplink=" + kTopk}),
      delta("fedavg", 2,
            {"model.hidden=[256]", "downlink=" + kQuantize, "delta_downlink=true",
             "strategy.clients_per_round=12"});
  dense.finish();
  lossy.finish();
  delta.finish();
  EXPECT_LT(lossy.loop().ledger().bytes_down * 4, dense.loop().ledger().bytes_down);
  EXPECT_LT(lossy.loop().ledger().bytes_up * 4, dense.loop().ledger().bytes_up);
  // The first of four rounds sends whole states, the others differences of about an eighth.
  EXPECT_LT(delta.last().bytes_down * 4, 12 * 4 * delta.loop().global().size());
}

TEST(Simulation, LearnsAndCountsWhatItSends) {
  TestRun run("fedavg", 2, {"rounds=20"});
  run.finish();
  EXPECT_GT(*run.last().accuracy, 0.6);
  const auto& ledger = run.loop().ledger();
  const int64_t dense = static_cast<int64_t>(run.loop().global().size()) * 4;
  EXPECT_EQ(ledger.client_updates, 100);
  EXPECT_GT(ledger.bytes_down, 100 * dense);
  EXPECT_LT(ledger.bytes_down, 100 * (dense + 1000));
  EXPECT_GT(ledger.macs, 0);
}

TEST(Simulation, FailingClientsAreCountedAndARunWithoutAnyEnds) {
  // A learning rate that diverges for everybody.
  TestRun run("fedavg", 2, {"train.lr=1e30", "train.epochs=3"});
  EXPECT_THROW(run.loop().run_round(), Error);
}

TEST(Simulation, MoreClientsPerRoundThanClientsIsRefused) {
  EXPECT_THROW(TestRun("fedavg", 1, {"strategy.clients_per_round=13"}), Error);
}

const std::vector<std::string> kGkt = {"data.synthetic_shape=[1,12,12]",
                                       "data.synthetic_train_samples=1200",
                                       "model.name=small-client",
                                       "strategy.server_model=small-server",
                                       "strategy.server_epochs=1",
                                       "strategy.server_batch_size=40",
                                       "strategy.server_distillation=false",
                                       "uplink=" + kQuantize};

std::vector<std::string> gkt_with(std::vector<std::string> more) {
  more.insert(more.begin(), kGkt.begin(), kGkt.end());
  return more;
}

TEST(FedGkt, LearnsWhatItsClientsCannot) {
  TestRun run("fedgkt", 2, gkt_with({"rounds=6", "strategy.clients_per_round=12"}));
  run.finish();
  EXPECT_EQ(run.loop().ledger().clients_failed, 0);
  EXPECT_GT(*run.last().accuracy, 0.5);
  EXPECT_GT(*run.last().accuracy, run.last().extra.at("client_accuracy") + 0.05);
}

// About 100 samples a client of 16·14·14 values in 4 bits: 2 MB of twelve clients, for a limit
// of 1.
TEST(FedGkt, ALimitOfMemoryChangesNothing) {
  const auto run = [](const std::string& limit) {
    auto done = std::make_unique<TestRun>(
        "fedgkt", 2,
        gkt_with({"rounds=2", "strategy.clients_per_round=12", "data.synthetic_shape=[1,28,28]",
                  "strategy.memory_limit_mb=" + limit}));
    done->finish();
    return done;
  };
  const auto whole = run("0"), limited = run("1");
  EXPECT_EQ(whole->last().extra.at("features_on_disk_bytes"), 0);
  EXPECT_GT(limited->last().extra.at("features_on_disk_bytes"), 0);
  EXPECT_EQ(limited->last().accuracy, whole->last().accuracy);
  EXPECT_EQ(limited->last().loss, whole->last().loss);
}

// Answers are larger than the client's own net.
TEST(FedGkt, AClientTakesAnswersForAllItsSamples) {
  TestRun run("fedgkt", 2,
              gkt_with({"rounds=2", "data.synthetic_train_samples=5000", "data.partition.name=iid",
                        "data.partition.clients=2", "strategy.clients_per_round=2",
                        "train.max_steps=2", "strategy.server_batch_size=500"}));
  run.finish();
  EXPECT_EQ(run.loop().ledger().clients_failed, 0);
}

TEST(FedGkt, FeedbackOfFeatureMapsIsRefused) {
  EXPECT_THROW(TestRun("fedgkt", 1, gkt_with({"delta_downlink=true"})), Error);
  EXPECT_THROW(TestRun("fedgkt", 1, gkt_with({"submodel.name=ordered"})), Error);
  EXPECT_THROW(TestRun("fedgkt", 1, gkt_with({"error_feedback=residual"})), Error);
  TestRun topk("fedgkt", 1, gkt_with({"uplink=" + kTopk, "rounds=1"}));
  EXPECT_NO_THROW(topk.finish());
}

}  // namespace
}  // namespace espalier::sim
