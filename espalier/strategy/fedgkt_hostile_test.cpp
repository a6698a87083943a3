// What peers, files and configurations may say to FedGKT.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/strategy/fedgkt_federation.h"

namespace espalier::strategy {
namespace {

ParameterSet copy_with(const ParameterSet& set, const std::string& tensor, size_t index,
                       float value) {
  ParameterSet copy = set;
  copy.values(tensor)[index] = value;
  return copy;
}

TEST(FedGktPeers, ABadUpdateIsThatClientsErrorAndChangesNothing) {
  GktFederation federation(GktFederation::options());
  federation.evaluates = true;
  federation.next_round();
  const Update good = federation.client_update(0, federation.task(0));
  const auto replaced = [&](size_t payload, ParameterSet values) {
    Update update = good;
    update.payloads[payload].values = std::make_shared<ParameterSet>(std::move(values));
    return update;
  };
  const ParameterSet &outputs = *good.payloads[0].values, &features = *good.payloads[1].values,
                     &labels = *good.payloads[2].values;
  const auto shape = federation.trainer().feature_shape();
  std::map<std::string, Update> bad = {
      {"label above", replaced(0, copy_with(outputs, "labels", 3, 3))},
      {"label below", replaced(0, copy_with(outputs, "labels", 3, -1))},
      {"label between", replaced(0, copy_with(outputs, "labels", 3, 0.5f))},
      {"sample twice", replaced(0, copy_with(outputs, "ids", 3, outputs.values("ids")[2]))},
      {"sample beyond", replaced(0, copy_with(outputs, "ids", 39, 40))},
      {"logit too large", replaced(0, copy_with(outputs, "logits", 3, 2e6f))},
      {"feature too large", replaced(1, copy_with(features, "feature.4", 3, -2e6f))},
      {"test label above", replaced(2, copy_with(labels, "labels", 3, 3))},
      {"fewer features", replaced(1, ParameterSet(fedgkt::features_layout(39, shape)))},
      {"other features", replaced(1, ParameterSet(fedgkt::features_layout(40, {2, 6, 6})))},
      {"fewer outputs", replaced(0, ParameterSet(fedgkt::outputs_layout(39, 3)))},
      {"more classes", replaced(0, ParameterSet(fedgkt::outputs_layout(40, 4)))},
      {"fewer test features", replaced(3, ParameterSet(fedgkt::features_layout(3, shape)))},
      {"no test labels", replaced(2, ParameterSet(fedgkt::labels_layout(0)))},
  };
  bad["no features"] = good;
  bad["no features"].payloads.erase(bad["no features"].payloads.begin() + 1);
  bad["an extra"] = good;
  bad["an extra"].payloads.push_back({"delta", good.payloads[0].values, 1});
  bad["accuracy of 2"] = good;
  bad["accuracy of 2"].scalars[fedgkt::kClientAccuracy] = 2;
  bad["no accuracy"] = good;
  bad["no accuracy"].scalars.erase(fedgkt::kClientAccuracy);

  const Bytes before = federation.saved();
  RoundSums sums(3, 1000);
  for (const auto& [name, update] : bad) {
    EXPECT_THROW(federation.deliver(0, federation.encoded(update), sums), Error) << name;
    EXPECT_EQ(sums.num_updates(), 0u) << name;
  }
  Update damaged = federation.encoded(good);
  auto bytes = std::make_shared<Bytes>(*damaged.payloads[1].encoded);
  (*bytes)[bytes->size() / 2] ^= 1;
  damaged.payloads[1].encoded = bytes;
  EXPECT_THROW(federation.deliver(0, damaged, sums), Error);
  // Not-a-number does not even encode; as raw bytes with a right checksum it does not decode.
  bytes = std::make_shared<Bytes>(*federation.encoded(good).payloads[1].encoded);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes->data() + bytes->size() - 4 - 40, &nan, sizeof(nan));
  const uint32_t checksum = checksum32(std::span(*bytes).first(bytes->size() - 4));
  std::memcpy(bytes->data() + bytes->size() - 4, &checksum, sizeof(checksum));
  damaged.payloads[1].encoded = bytes;
  EXPECT_THROW(federation.deliver(0, damaged, sums), Error);
  EXPECT_EQ(federation.saved(), before);

  federation.deliver(0, federation.encoded(good), sums);
  EXPECT_THROW(federation.deliver(0, federation.encoded(good), sums), Error);  // twice
  EXPECT_EQ(sums.num_updates(), 1u);
  federation.evaluates = false;
  RoundSums next(3, 1000);
  EXPECT_THROW(federation.deliver(0, federation.encoded(good), next), Error);  // nobody asked
}

TEST(FedGktPeers, LayoutsThatAreDeclaredAreBounded) {
  GktFederation federation(GktFederation::options());
  const auto limit = federation.strategy().capabilities().encoded_updates->max_values(
      federation.global()->layout(), 40);
  EXPECT_GE(limit, 65536 * 16 * 6 * 6);
  EXPECT_LT(limit, int64_t{65536} * 16 * 6 * 6 * 2);
}

TEST(FedGktPeers, AnAnswerThatDoesNotFitIsTheServersError) {
  GktFederation federation(GktFederation::options());
  federation.run_round();
  federation.next_round();
  Task task = federation.task(0);
  const auto with = [&](ParameterSet answers) {
    Task other = task;
    for (Payload& payload : other.payloads) {
      if (payload.name == fedgkt::kAnswers)
        payload.values = std::make_shared<ParameterSet>(std::move(answers));
    }
    return other;
  };
  const ParameterSet& answers = *federation.answers(0);
  EXPECT_THROW(federation.client_update(0, with(copy_with(answers, "ids", 0, 40))), Error);
  EXPECT_THROW(federation.client_update(0, with(ParameterSet(fedgkt::answers_layout(40, 4)))),
               Error);
  EXPECT_NO_THROW(federation.client_update(0, task));
}

TEST(FedGktPeers, ATruncatedStateIsAnError) {
  FedGktOptions options = GktFederation::options();
  options.mode = "asynchronous";
  GktFederation federation(options);
  federation.run_round();
  const Bytes bytes = federation.saved();
  for (size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 97) {
    ByteReader reader(std::span<const uint8_t>(bytes).first(size), "test");
    EXPECT_THROW(federation.strategy().load(reader), Error) << size;
  }
}

TEST(FedGktConfiguration, WhatDoesNotFitIsRefusedWithAReason) {
  const auto message = [](const std::function<void(GktFederation&, FedGktOptions&)>& change) {
    FedGktOptions options = GktFederation::options();
    GktFederation federation(options);
    change(federation, options);
    try {
      FedGkt(options).start(federation.setup);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message([](auto&, auto&) {}), "");
  EXPECT_NE(
      message([](GktFederation& f, auto&) { f.setup.model.name = "cnn"; }).find("resnet8-client"),
      std::string::npos);
  EXPECT_NE(
      message([](auto&, FedGktOptions& o) { o.server_model = "small-servr"; }).find("small-server"),
      std::string::npos);
  EXPECT_NE(message([](auto&, FedGktOptions& o) {
              o.server_model = "torchscript";
            }).find("feature map [16, 6, 6]"),
            std::string::npos);
}

}  // namespace
}  // namespace espalier::strategy
