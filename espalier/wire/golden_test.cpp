// Messages as files. Those of this version must never change; those of older ones are refused by a
// message that says what to do.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/codec/delta.h"
#include "espalier/wire/message.h"

namespace espalier::wire {
namespace {

const std::filesystem::path kFolder = ESPALIER_GOLDEN_FOLDER;

std::shared_ptr<const ParameterLayout> layout() {
  static const auto shared = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          {.name = "w", .shape = {3, 2}, .units = {{.axis = 0, .group = 0}}},
          {.name = "b", .shape = {3}, .role = Role::kBias, .units = {{.axis = 0, .group = 0}}}},
      std::vector<UnitGroup>{{"w", 3}});
  return shared;
}

std::shared_ptr<const ParameterSet> values() {
  return std::make_shared<ParameterSet>(layout(), AlignedVector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9});
}

const codec::Codec& codec() {
  static const auto identity = codec::make_codec(Json::array(), "golden");
  return *identity;
}

Task task() {
  Task task;
  task.round = 7;
  task.exchange = 1;
  task.client = 42;
  task.state_version = 5;
  task.keeps_state = true;
  task.algorithm = "fedprox";
  task.options = {{"mu", 0.5}, {"weighting", "uniform"}};
  task.train.lr = 0.25;
  task.train.epochs = 2;
  task.train.nesterov = true;
  task.scalars["refresh"] = 1;
  task.payloads.push_back({kModel, values(), 1});
  return task;
}

Update update() {
  Update update;
  update.answers = {7, 1, 42};
  update.num_samples = 30;
  update.scalars[kMacs] = 1000;
  update.payloads.push_back({kDelta, values(), 30});
  return update;
}

// The file's bytes; written anew with ESPALIER_WRITE_GOLDEN in the environment, for a new version.
Bytes golden(const char* name, const Bytes& made) {
  if (std::getenv("ESPALIER_WRITE_GOLDEN") != nullptr) write_file_atomic(kFolder / name, made);
  return read_file(kFolder / name);
}

std::string said(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(GoldenMessages, ATaskOfVersionFour) {
  const Bytes made =
      write_stream(encode_task(task(), Key(11), codec(), Key(12), {layout(), 100}, nullptr));
  const Bytes file = golden("task_v4.bin", made);
  EXPECT_EQ(made, file);
  Key key(0);
  const Task read = decode_task(read_stream(file), codec(), {layout(), 100}, nullptr, key);
  EXPECT_EQ(key.value(), Key(11).value());
  EXPECT_EQ(read.round, 7u);
  EXPECT_EQ(read.exchange, 1u);
  EXPECT_EQ(read.client, 42u);
  EXPECT_EQ(read.state_version, 5u);
  EXPECT_TRUE(read.keeps_state);
  EXPECT_EQ(read.algorithm, "fedprox");
  EXPECT_EQ(read.options, task().options);
  EXPECT_EQ(changed_options(read.train), changed_options(task().train));
  EXPECT_EQ(read.scalars, task().scalars);
  EXPECT_TRUE(std::ranges::equal(read.payload(kModel).values->values(), values()->values()));
}

TEST(GoldenMessages, AnUpdateOfVersionFour) {
  const Bytes made = write_stream(encode_update(update(), codec(), Key(13), {layout(), 100}));
  const Bytes file = golden("update_v4.bin", made);
  EXPECT_EQ(made, file);
  const Update read = decode_update(read_stream(file), codec(), {layout(), 100});
  EXPECT_EQ(read.answers, update().answers);
  EXPECT_EQ(answered_task(read_stream(file)), update().answers);
  EXPECT_EQ(read.num_samples, 30);
  EXPECT_EQ(read.scalars, update().scalars);
  EXPECT_EQ(read.payloads.at(0).weight, 30);
  EXPECT_TRUE(std::ranges::equal(read.payloads[0].values->values(), values()->values()));
}

// Of w the values 1, 4, 5 and 6, all of b.
prune::Mask mask() { return prune::Mask(layout(), {0b111'111001}); }
const std::vector<float> kKept = {1, 0, 0, 4, 5, 6, 7, 8, 9};

TEST(GoldenMessages, ATaskWithAMaskAndOneUnderAMaskThatIsHeld) {
  Task sent = task();
  sent.mask = std::make_shared<TravellingMask>(mask(), 6);
  Key key(0);
  for (const char* name : {"task_v4_mask.bin", "task_v4_held_mask.bin"}) {
    const Bytes made =
        write_stream(encode_task(sent, Key(11), codec(), Key(12), {layout(), 100}, nullptr));
    const Bytes file = golden(name, made);
    EXPECT_EQ(made, file) << name;
    const Task read = decode_task(read_stream(file), codec(), {layout(), 100}, nullptr, key, {},
                                  [&](const Task&, uint32_t round) {
                                    EXPECT_EQ(round, 6u);
                                    return std::span<const uint8_t>(sent.mask->bytes);
                                  });
    ASSERT_NE(read.mask, nullptr) << name;
    EXPECT_EQ(read.mask->mask, mask()) << name;
    EXPECT_TRUE(std::ranges::equal(read.payload(kModel).values->values(), kKept)) << name;
    sent.state_version = 6;
  }
}

TEST(GoldenMessages, AnUpdateWithAMask) {
  Update sent = update();
  sent.mask = std::make_shared<TravellingMask>(mask(), 7);
  const Bytes made = write_stream(encode_update(sent, codec(), Key(13), {layout(), 100}));
  const Bytes file = golden("update_v4_mask.bin", made);
  EXPECT_EQ(made, file);
  const Update read = decode_update(read_stream(file), codec(), {layout(), 100});
  EXPECT_TRUE(std::ranges::equal(read.payloads.at(0).values->values(), kKept));
}

TEST(GoldenMessages, ATaskForAPartOfTheModelWithAnotherPayload) {
  Task sent = task();
  sent.kind = TaskKind::kExplore;
  sent.units = {2};
  sent.submodel_training.distillation = 0.5;
  sent.submodel_training.temperature = 2;
  sent.submodel_training.masked_cross_entropy = true;
  sent.submodel_training.widths = {{1}, {2}};
  const auto narrow = narrow_layout(*layout(), sent.units);
  sent.payloads[0].values =
      std::make_shared<ParameterSet>(narrow, AlignedVector<float>{1, 2, 3, 4, 7, 8});
  const auto ids = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{"ids", {3}, Role::kCounter}});
  sent.payloads.push_back(
      {"extra", std::make_shared<ParameterSet>(ids, AlignedVector<float>{3, 1, 2}), 1});
  const Bytes made =
      write_stream(encode_task(sent, Key(11), codec(), Key(12), {narrow, 100}, nullptr));
  const Bytes file = golden("task_v4_part.bin", made);
  EXPECT_EQ(made, file);
  Key key(0);
  const Task read = decode_task(read_stream(file), codec(), {layout(), 100}, nullptr, key);
  EXPECT_EQ(read.units, sent.units);
  EXPECT_EQ(read.submodel_training, sent.submodel_training);
  EXPECT_EQ(read.payload(kModel).values->layout(), *narrow);
  EXPECT_TRUE(
      std::ranges::equal(read.payload("extra").values->values(), std::vector<float>{3, 1, 2}));
}

TEST(GoldenMessages, ATaskWithTheDifferenceToTheModel) {
  codec::DeltaSender sender(codec(), layout());
  sender.advance(ParameterSet(layout()), Key(14));
  sender.advance(*values(), Key(15));
  const auto difference = sender.message_for(1);
  const Bytes made = write_stream(
      encode_task(task(), Key(11), codec(), Key(12), {layout(), 100}, nullptr,
                  std::make_shared<const Bytes>(difference.begin(), difference.end())));
  const Bytes file = golden("task_v4_difference.bin", made);
  EXPECT_EQ(made, file);
  Key key(0);
  const Task read = decode_task(read_stream(file), codec(), {layout(), 100}, nullptr, key,
                                [](const Task&, std::span<const uint8_t> body) {
                                  codec::DeltaReceiver receiver(codec(), ParameterSet(layout()), 1);
                                  receiver.apply(body);
                                  EXPECT_EQ(receiver.version(), 2u);
                                  return std::make_shared<const ParameterSet>(receiver.state());
                                });
  EXPECT_TRUE(std::ranges::equal(read.payload(kModel).values->values(), values()->values()));
}

TEST(GoldenMessages, VersionThreeIsRefusedWithWhatToDo) {
  Key key(0);
  const std::string task_said = said([&] {
    decode_task(read_stream(read_file(kFolder / "task_v3.bin")), codec(), {layout(), 100}, nullptr,
                key);
  });
  EXPECT_NE(task_said.find("expected version 4, got 3; both sides must run the same release"),
            std::string::npos)
      << task_said;
  const std::string update_said = said([&] {
    decode_update(read_stream(read_file(kFolder / "update_v3.bin")), codec(), {layout(), 100});
  });
  EXPECT_NE(update_said.find("expected version 4, got 3"), std::string::npos) << update_said;
}

TEST(Stream, IsAsLongAsItSaysAndRefusesWhatIsNone) {
  const EncodedMessage message = encode_update(update(), codec(), Key(1), {layout(), 100});
  const Bytes stream = write_stream(message);
  EXPECT_EQ(stream.size(), message.size_bytes());
  const EncodedMessage read = read_stream(stream);
  EXPECT_EQ(read.head, message.head);
  ASSERT_EQ(read.bodies.size(), message.bodies.size());
  EXPECT_EQ(*read.bodies[0], *message.bodies[0]);
  // A stream may end after its head; what is missing then is found out by decoding.
  for (size_t size = 0; size < stream.size(); ++size) {
    const auto part = std::span(stream).first(size);
    if (size != 4 + message.head.size()) {
      EXPECT_THROW(read_stream(part), Error) << size;
    } else {
      EXPECT_THROW(decode_update(read_stream(part), codec(), {layout(), 100}), Error) << size;
    }
  }
  Bytes many(4, 0);
  for (int body = 0; body < 1100; ++body) many.insert(many.end(), 8, 0);
  EXPECT_THROW(read_stream(many), Error);
}

}  // namespace
}  // namespace espalier::wire
