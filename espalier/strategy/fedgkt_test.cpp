#include "espalier/strategy/fedgkt.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <cmath>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/memory_use.h"
#include "espalier/base/sanitizers.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/params/safetensors.h"
#include "espalier/strategy/fedgkt_federation.h"

namespace espalier::strategy {
namespace {

constexpr const char* kFourBits = R"([{"stage": "hadamard"}, {"stage": "quantize", "bits": 4}])";

FedGktOptions options() { return GktFederation::options(); }

TEST(FedGkt, TheServerLearnsAndBeatsChance) {
  for (const bool distillation : {true, false}) {
    for (const bool shuffle : {true, false}) {
      FedGktOptions mine = options();
      mine.server_distillation = distillation;
      mine.shuffle_clients = shuffle;
      GktFederation federation(mine, {1, kFourBits});
      federation.run_round();
      const double first = federation.strategy().take_report().figures.at("server_loss");
      EXPECT_EQ(federation.accuracy_sums().count, 0u);
      for (int round = 0; round < 6; ++round) federation.run_round();
      federation.evaluates = true;
      federation.run_round();
      const auto metrics = federation.strategy().take_report().figures;
      EXPECT_LT(metrics.at("server_loss"), 0.7 * first);
      EXPECT_EQ(federation.accuracy_sums().count, 60u);
      EXPECT_GT(federation.accuracy(), 0.75);  // chance: 1/3
      EXPECT_NEAR(metrics.at("server_accuracy_mean"), federation.accuracy(), 1e-12);
      EXPECT_GT(metrics.at("client_accuracy"), 0.5);
      EXPECT_EQ(metrics.at("server_test_samples"), 60);
      const double took = federation.strategy().capabilities().own_model->evaluated().seconds;
      EXPECT_GT(took, 0);
    }
  }
}

TEST(FedGkt, TermsOfTheLossesHaveTheirWeights) {
  // At a learning rate of almost nothing, L(α) is linear in α: server KD + α·CE, client CE + α·KD.
  const auto losses = [](double alpha, bool distillation) {
    FedGktOptions mine = options();
    mine.alpha = alpha;
    mine.server_distillation = distillation;
    mine.server_epochs = 1;
    mine.server_lr = 1e-12;
    GktFederation federation(mine);
    federation.train.lr = 1e-12;
    federation.run_round();
    const double server = federation.strategy().take_report().figures.at("server_loss"),
                 before = federation.train_loss;
    federation.run_round();
    return std::array{server, before, federation.train_loss};
  };
  const auto none = losses(0, true), one = losses(1, true), two = losses(2, true),
             plain = losses(1, false);
  EXPECT_GT(none[0], 0.001);  // KD alone
  EXPECT_NEAR(one[0] - none[0], plain[0], 1e-5);
  EXPECT_NEAR(two[0] - one[0], plain[0], 1e-5);
  EXPECT_EQ(none[1], one[1]);  // before they have logits, clients know cross-entropy alone
  EXPECT_GT(one[2] - none[2], 0.001);
  EXPECT_NEAR(two[2] - one[2], one[2] - none[2], 1e-5);
}

TEST(FedGkt, LogitsBelongToTheirSamples) {
  FedGktOptions mine = options();
  mine.sample_fraction = 0.5;
  GktFederation federation(mine);
  federation.run_round();
  // What the server's net says of each sample's feature map under the client's net of round 1.
  std::vector<std::map<uint32_t, std::vector<float>>> expected(3);
  const auto shape = federation.trainer().feature_shape();
  models::ModelOptions model;
  model.name = "small-server";
  const auto server = models::make_trainer(model, {data::Kind::kFloat, shape, 3, 0}, {});
  server->load(federation.strategy().capabilities().own_model->parts().at("server"));
  const auto size = static_cast<size_t>(shape[0] * shape[1] * shape[2]);
  for (uint64_t client = 0; client < 3; ++client) {
    federation.trainer().load(federation.state(client).sets.at("net"));
    for (const uint32_t sample : federation.samples(client)) {
      data::Dataset one;
      one.kind = data::Kind::kFloat;
      one.sample_shape = shape;
      one.num_classes = 3;
      one.labels = {0};
      one.floats.resize(size);
      federation.trainer().predict(*federation.data().train, std::span(&sample, 1), nullptr, Key(0),
                                   one.floats, {});
      expected[client][sample].resize(3);
      const uint32_t first = 0;
      server->predict(one, std::span(&first, 1), nullptr, Key(0), {}, expected[client][sample]);
    }
  }
  federation.next_round();
  for (uint64_t client = 0; client < 3; ++client) {
    federation.client_update(client, federation.task(client));
    const auto& heard = federation.trainer().heard;
    EXPECT_EQ(heard.size(), (federation.samples(client).size() + 1) / 2);
    for (const auto& [sample, logits] : heard) {
      for (size_t c = 0; c < 3; ++c)
        EXPECT_NEAR(logits[c], expected[client].at(sample)[c], 1e-4) << client << " " << sample;
    }
  }
}

std::vector<float> run(const FedGktOptions& mine, const GktFederation::Settings& settings,
                       const std::vector<uint64_t>& order, int restarts = 0) {
  GktFederation federation(mine, settings);
  federation.evaluates = true;
  for (int round = 0; round < 3; ++round) {
    federation.run_round(order);
    if (restarts > round) federation.restart(federation.saved());
  }
  const ParameterSet server = federation.strategy().capabilities().own_model->parts().at("server");
  std::vector<float> all(server.values().begin(), server.values().end());
  for (uint64_t client = 0; client < 3; ++client) {
    for (const auto& [name, set] : federation.state(client).sets)
      all.insert(all.end(), set.values().begin(), set.values().end());
  }
  all.push_back(static_cast<float>(federation.accuracy_sums().loss));
  all.push_back(static_cast<float>(federation.accuracy()));
  return all;
}

TEST(FedGkt, NothingButTheDataDecidesTheBytes) {
  FedGktOptions mine = options();
  mine.server_shards = 2;
  mine.feature_noise = 0.01;
  const auto expected = run(mine, {1, kFourBits}, {0, 1, 2});
  EXPECT_EQ(expected, run(mine, {2, kFourBits}, {0, 1, 2}));     // threads
  EXPECT_EQ(expected, run(mine, {3, kFourBits}, {2, 0, 1}));     // order of arrival
  EXPECT_EQ(expected, run(mine, {2, kFourBits}, {0, 1, 2}, 2));  // a restart in the middle
  EXPECT_NE(expected, run(mine, {1, "[]"}, {0, 1, 2}));
}

// The restart must bring back what absent clients sent, and their answers.
TEST(FedGkt, AsynchronousRunsResumeToo) {
  FedGktOptions mine = options();
  mine.mode = "asynchronous";
  GktFederation whole(mine), stopped(mine);
  for (GktFederation* federation : {&whole, &stopped}) federation->run_round({0, 1, 2});
  stopped.restart(stopped.saved());
  EXPECT_EQ(stopped.saved(), whole.saved());
  for (const uint64_t client : {1u, 0u}) {
    whole.run_round({client});
    stopped.run_round({client});
  }
  EXPECT_EQ(stopped.saved(), whole.saved());
  EXPECT_TRUE(std::ranges::equal(stopped.answers(2)->values(), whole.answers(2)->values()));
}

// A round that failed after some had answered, then again with others.
TEST(FedGkt, ATriedRoundLeavesNothingBehind) {
  for (const bool evaluates : {false, true}) {
    GktFederation tried(options()), fresh(options());
    tried.evaluates = fresh.evaluates = evaluates;
    RoundSums failed(3, 1000);
    tried.next_round();
    for (const uint64_t client : {0u, 2u})
      tried.deliver(client, tried.encoded(tried.client_update(client, tried.task(client))), failed);
    EXPECT_EQ(tried.saved(), fresh.saved());
    tried.try_again();
    for (GktFederation* federation : {&tried, &fresh}) federation->run_round({0, 1});
    EXPECT_EQ(tried.saved(), fresh.saved());
    if (evaluates) {
      EXPECT_EQ(tried.accuracy(), fresh.accuracy());
    }
  }
}

TEST(FedGkt, TheScheduleSurvivesARestart) {
  FedGktOptions mine = options();
  mine.server_lr = 1e-9;
  mine.server_lr_factor = 0.5;
  mine.server_lr_patience = 0;
  GktFederation whole(mine), stopped(mine);
  for (int round = 0; round < 5; ++round) {
    whole.run_round();
    stopped.run_round();
    stopped.restart(stopped.saved());
  }
  EXPECT_LT(whole.strategy().take_report().figures.at("server_lr"), 1e-9);
  whole.run_round();
  stopped.run_round();
  EXPECT_EQ(stopped.strategy().take_report().figures.at("server_lr"),
            whole.strategy().take_report().figures.at("server_lr"));
  EXPECT_EQ(stopped.saved(), whole.saved());
}

TEST(FedGkt, AMemoryLimitChangesNothingButWhereFeaturesLie) {
  // 91 samples and 60 for evaluation, 16×18×18 features each: 3.1 MB.
  FedGktOptions limited = options(), free = options();
  limited.memory_limit_mb = 1;
  free.server_epochs = limited.server_epochs = 1;
  GktFederation::Settings settings;
  settings.side = 36;
  GktFederation one(free, settings), other(limited, settings);
  one.evaluates = other.evaluates = true;
  for (int round = 0; round < 2; ++round) {
    one.run_round();
    other.run_round();
  }
  EXPECT_EQ(one.strategy().take_report().figures.at("features_on_disk_bytes"), 0);
  EXPECT_GT(other.strategy().take_report().figures.at("features_on_disk_bytes"), 1e6);
  EXPECT_EQ(one.strategy().take_report().figures.at("features_bytes"),
            other.strategy().take_report().figures.at("features_bytes"));
  EXPECT_EQ(one.saved(), other.saved());
  EXPECT_EQ(one.accuracy(), other.accuracy());
}

// 91 samples, 16×36×36 features each: 7.5 MB.
TEST(FedGkt, CheckpointsReadWhatLiesOnDiskPieceByPiece) {
  FedGktOptions free = options();
  free.mode = "asynchronous";
  free.server_epochs = 1;
  FedGktOptions limited = free;
  limited.memory_limit_mb = 1;
  GktFederation::Settings settings;
  settings.side = 72;
  GktFederation one(free, settings), other(limited, settings);
  for (GktFederation* federation : {&one, &other}) federation->run_round();
  EXPECT_GT(other.strategy().take_report().figures.at("features_on_disk_bytes"), 6e6);

  if (kSanitizedHeap) GTEST_SKIP() << "the sanitizer's heap does not count";
  const auto taken = [] { return mallinfo2().uordblks + mallinfo2().hblkhd + taken_block_bytes(); };
  Bytes written;
  written.reserve(one.saved().size());
  LongState* const state = other.strategy().capabilities().long_state;
  const size_t before = taken();
  size_t most = before;
  state->saved().for_each_piece([&](std::span<const uint8_t> piece) {
    most = std::max(most, taken());
    written.insert(written.end(), piece.begin(), piece.end());
  });
  EXPECT_LT(most, before + (2 << 20));
  EXPECT_EQ(written, one.saved());

  // They go where there is room, as when they came.
  other.strategy().start(other.setup);
  ByteSource source;
  source.append_view(written);
  SourceReader reader(source, "test");
  state->restore(reader);
  reader.finish();
  for (GktFederation* federation : {&one, &other}) federation->run_round({1});
  EXPECT_EQ(other.saved(), one.saved());
  EXPECT_GT(other.strategy().take_report().figures.at("features_on_disk_bytes"), 6e6);
}

TEST(FedGkt, AsynchronousTrainingGoesOnOverWhatAbsentClientsSent) {
  FedGktOptions mine = options();
  mine.mode = "asynchronous";
  GktFederation federation(mine);
  federation.run_round({0, 1, 2});
  const double macs = federation.strategy().take_report().figures.at("server_macs");
  const auto first = federation.answers(2);
  federation.run_round({1});
  EXPECT_EQ(federation.strategy().take_report().figures.at("server_macs"),
            macs);  // still 91 samples
  const auto second = federation.answers(2);
  EXPECT_TRUE(std::ranges::equal(first->values("ids"), second->values("ids")));
  EXPECT_FALSE(std::ranges::equal(first->values("logits"), second->values("logits")));

  mine.mode = "synchronous";
  GktFederation rounds(mine);
  rounds.run_round({0, 1, 2});
  const auto before = rounds.answers(2);
  rounds.run_round({1});
  EXPECT_LT(rounds.strategy().take_report().figures.at("server_macs"), 0.5 * macs);
  EXPECT_EQ(before, rounds.answers(2));
}

TEST(FedGkt, ClientsGoOnFromTheirOwnWeights) {
  GktFederation federation(options());
  const ParameterSet initial = *federation.global();
  federation.next_round();
  Task task = federation.task(0);
  EXPECT_TRUE(std::ranges::equal(task.payload(kModel).values->values(), initial.values()));
  const Update update = federation.client_update(0, task);
  const auto steps = federation.state(0).sets.at("optimizer.steps").values();
  EXPECT_EQ(steps[0], 4);  // 40 samples in batches of 10
  // Training of 40 samples and a forward pass over them. The layer that reads the images, 16 maps
  // of 6×6 from 3×3 pixels, has no input to give a gradient to.
  EXPECT_EQ(
      update.scalar(kMacs),
      160.0 * static_cast<double>(federation.trainer().macs_per_sample()) - 40.0 * 16 * 36 * 9);
  for (const Payload& payload : update.payloads) EXPECT_NE(payload.name, kModel);
  federation.next_round();
  task = federation.task(0);
  EXPECT_THROW(task.payload(kModel), Error);
  federation.client_update(0, task);
  EXPECT_EQ(federation.state(0).sets.at("optimizer.steps").values()[0], 8);
  EXPECT_TRUE(std::ranges::equal(federation.global()->values(), initial.values()));
}

TEST(FedGkt, ClippingAndNoiseDoWhatTheySay) {
  const auto features = [](double clip, double noise) {
    FedGktOptions mine = options();
    mine.clip_features = clip;
    mine.feature_noise = noise;
    GktFederation federation(mine);
    federation.evaluates = true;
    federation.next_round();
    const Update update = federation.client_update(0, federation.task(0));
    return std::pair{*update.payloads[1].values, *update.payloads[3].values};
  };
  const auto plain = features(0, 0), clipped = features(2, 0), noisy = features(0, 0.25);
  for (const bool test : {false, true}) {
    const ParameterSet& before = test ? plain.second : plain.first;
    const ParameterSet& after = test ? clipped.second : clipped.first;
    ParameterSet noise = test ? noisy.second : noisy.first;
    size_t shortened = 0;
    for (const ParameterInfo& tensor : before.layout().tensors()) {
      const double norm = std::sqrt(squared_norm(before.values(tensor)));
      EXPECT_NEAR(std::sqrt(squared_norm(after.values(tensor))), std::min(norm, 2.0), 1e-5);
      shortened += norm > 2 ? 1 : 0;
    }
    EXPECT_GT(shortened, 0u);
    subtract(noise.values(), before.values(), noise.values());
    const double n = static_cast<double>(noise.size());
    double mean = 0;
    for (const float value : noise.values()) mean += value / n;
    EXPECT_NEAR(mean, 0, 5 * 0.25 / std::sqrt(n));
    EXPECT_NEAR(squared_norm(noise.values()) / n, 0.0625, 5 * 0.0625 * std::sqrt(2 / n));
  }
}

TEST(FedGkt, AFractionOfTheSamplesIsDrawnAnewEachRound) {
  FedGktOptions mine = options();
  mine.sample_fraction = 0.25;
  mine.test_samples = 7;
  GktFederation federation(mine);
  federation.evaluates = true;
  std::vector<std::vector<float>> ids;
  for (int round = 0; round < 2; ++round) {
    federation.next_round();
    const Update update = federation.client_update(0, federation.task(0));
    const ParameterSet& outputs = *update.payloads[0].values;
    ASSERT_EQ(outputs.values("ids").size(), 10u);
    EXPECT_EQ(update.payloads[1].values->layout().tensors().size(), 10u);
    EXPECT_EQ(update.payloads[3].values->layout().tensors().size(), 7u);
    ids.emplace_back(outputs.values("ids").begin(), outputs.values("ids").end());
    for (size_t i = 0; i < 10; ++i) {
      const uint32_t sample = federation.samples(0)[static_cast<size_t>(ids.back()[i])];
      EXPECT_EQ(outputs.values("labels")[i],
                static_cast<float>(federation.data().train->labels[sample]));
    }
  }
  EXPECT_NE(ids[0], ids[1]);
}

TEST(FedGkt, APretrainedExtractorIsWhereClientsStart) {
  GktFederation plain(options());
  const auto& layout = plain.global()->layout();
  ParameterSet other(plain.global()->shared_layout());
  for (float& value : other.values()) value = 3;
  const auto file = std::filesystem::path(testing::TempDir()) / "extractor.safetensors";
  write_file_atomic(file, write_safetensors(other, {}));
  FedGktOptions mine = options();
  mine.pretrained_extractor = file.string();
  GktFederation federation(mine);
  federation.next_round();
  const auto model = federation.task(0).payload(kModel).values;
  const auto extractor = federation.trainer().extractor_tensors();
  ASSERT_FALSE(extractor.empty());
  for (size_t t = 0; t < layout.tensors().size(); ++t) {
    const ParameterInfo& tensor = layout.tensors()[t];
    const bool taken = std::ranges::find(extractor, t) != extractor.end();
    EXPECT_TRUE(std::ranges::equal(model->values(tensor),
                                   taken ? other.values(tensor) : plain.global()->values(tensor)));
  }
  ParameterSet nothing(std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"conv9.weight", {2}, Role::kWeight}}));
  write_file_atomic(file, write_safetensors(nothing, {}));
  GktFederation failing(mine);
  failing.next_round();
  EXPECT_THROW(failing.task(0), Error);
  EXPECT_THROW(failing.task(0), Error);  // and not the weights without the file the second time
  std::filesystem::remove(file);
}

// The tensors that compute the feature map.
std::vector<std::vector<float>> extractor_of(GktFederation& federation, uint64_t client) {
  std::vector<std::vector<float>> tensors;
  const ParameterSet& net = federation.state(client).sets.at("net");
  for (const size_t t : federation.trainer().extractor_tensors()) {
    const auto values = net.values(net.layout().tensors()[t]);
    tensors.emplace_back(values.begin(), values.end());
  }
  return tensors;
}

TEST(FedGkt, AnExtractorStandsStillAfterItsRounds) {
  FedGktOptions mine = options();
  mine.extractor_rounds = 2;
  GktFederation federation(mine), moving(options());
  for (GktFederation* one : {&federation, &moving}) one->run_round();
  const auto first = extractor_of(federation, 0);
  federation.run_round();
  moving.run_round();
  const auto second = extractor_of(federation, 0);
  const ParameterSet net = federation.state(0).sets.at("net");
  EXPECT_NE(first, second);
  EXPECT_EQ(second, extractor_of(moving, 0));
  federation.run_round();
  moving.run_round();
  EXPECT_EQ(extractor_of(federation, 0), second);  // weights, statistics and counters
  EXPECT_NE(extractor_of(moving, 0), second);
  EXPECT_FALSE(std::ranges::equal(federation.state(0).sets.at("net").values(), net.values()));
}

// One pass per round: w̄ is w after the first, then w₂ + a·(w₁ − w₂). Clients hear w̄, which is the
// same w₁ after the first round, so that the second round trains the same w₂.
TEST(FedGkt, TheServersAverageIsOfItsPasses) {
  FedGktOptions mine = options();
  mine.server_epochs = 1;
  GktFederation plain(mine);
  mine.server_average = 0.25;
  GktFederation averaged(mine);
  std::vector<ParameterSet> weights;
  for (int round = 0; round < 2; ++round) {
    plain.run_round();
    averaged.run_round();
    weights.push_back(plain.server());
    if (round == 0) {
      EXPECT_TRUE(std::ranges::equal(averaged.server().values(), weights[0].values()));
    }
  }
  const ParameterSet mean = averaged.server();
  for (const ParameterInfo& tensor : mean.layout().tensors()) {
    for (size_t i = 0; i < mean.values(tensor).size(); ++i) {
      const double first = weights[0].values(tensor)[i], second = weights[1].values(tensor)[i];
      const double expected = tensor.role == Role::kCounter ? second : 0.25 * first + 0.75 * second;
      ASSERT_NEAR(mean.values(tensor)[i], expected, 1e-6 * (1 + std::abs(expected))) << tensor.name;
    }
  }
  averaged.run_round();
  plain.run_round();
  EXPECT_FALSE(std::ranges::equal(averaged.answers(0)->values(), plain.answers(0)->values()));
}

TEST(FedGkt, TheServersAverageSurvivesARestart) {
  FedGktOptions mine = options();
  mine.server_average = 0.5;
  mine.extractor_rounds = 2;
  EXPECT_EQ(run(mine, {1, kFourBits}, {0, 1, 2}), run(mine, {2, kFourBits}, {0, 1, 2}, 2));
}

TEST(FedGkt, TheScheduleFollowsTheTrainingAccuracy) {
  FedGktOptions mine = options();
  mine.server_lr = 1e-9;  // so that the accuracy only wavers
  mine.server_lr_factor = 0.5;
  mine.server_lr_patience = 1;
  GktFederation federation(mine);
  double best = 0, expected = 1e-9;
  int bad = 0;
  for (int round = 0; round < 9; ++round) {
    federation.run_round();
    const auto metrics = federation.strategy().take_report().figures;
    EXPECT_DOUBLE_EQ(metrics.at("server_lr"), expected);
    const double accuracy = metrics.at("server_train_accuracy");
    bad = accuracy > best * 1.0001 ? 0 : bad + 1;
    best = std::max(best, accuracy);
    if (bad == 2) {
      bad = 0;
      expected *= 0.5;
    }
  }
  EXPECT_LT(expected, 1e-9);
}

}  // namespace
}  // namespace espalier::strategy
