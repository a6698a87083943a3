#include "espalier/wire/message.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"

namespace espalier::wire {
namespace {

std::shared_ptr<const ParameterLayout> model_layout() {
  static const auto layout = std::make_shared<const ParameterLayout>(std::vector<ParameterInfo>{
      {"fc.weight", {40, 30}, Role::kWeight}, {"fc.bias", {40}, Role::kBias}});
  return layout;
}

std::shared_ptr<ParameterSet> numbers(const std::shared_ptr<const ParameterLayout>& layout) {
  auto set = std::make_shared<ParameterSet>(layout);
  Stream stream{Key(3)};
  for (float& value : set->values()) value = static_cast<float>(stream.normal());
  return set;
}

struct Fixture {
  std::unique_ptr<codec::Codec> codec = codec::make_codec(Json::array(), "test");
  WireLimits limits{model_layout(), 10000};
  wire::Task task;
  Fixture() {
    task.round = 7;
    task.client = uint64_t{1} << 40;
    task.state_version = 3;
    task.train.lr = 0.125;
    task.train.optimizer = "adam";
    task.scalars["mu"] = 0.5;
    task.payloads.push_back({"model", numbers(model_layout()), 1});
    // A payload with its own layout: a feature map, say.
    task.payloads.push_back(
        {"features",
         numbers(std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"h", {2, 3, 4}}})),
         2});
  }
  EncodedMessage encode(EncodedBodies* shared = nullptr) const {
    return encode_task(task, Key(9), *codec, Key(5), limits, shared);
  }
};

TEST(Wire, TaskRoundTrip) {
  const Fixture f;
  const EncodedMessage message = f.encode();
  Key key(0);
  const wire::Task read = decode_task(message, *f.codec, f.limits, nullptr, key);
  EXPECT_EQ(key, Key(9));
  EXPECT_EQ(read.round, 7u);
  EXPECT_EQ(read.client, uint64_t{1} << 40);
  EXPECT_EQ(read.state_version, 3u);
  EXPECT_EQ(read.train.lr, 0.125);
  EXPECT_EQ(read.train.optimizer, "adam");
  EXPECT_EQ(read.train.batch_size, train::StepOptions{}.batch_size);
  EXPECT_EQ(read.scalar("mu"), 0.5);
  EXPECT_TRUE(std::ranges::equal(read.payload("model").values->values(),
                                 f.task.payloads[0].values->values()));
  EXPECT_EQ(read.payload("model").values->shared_layout(), model_layout());
  EXPECT_EQ(read.payload("features").values->layout().tensors()[0].shape,
            (std::vector<int64_t>{2, 3, 4}));
  EXPECT_THROW(read.payload("other"), Error);
}

TEST(Wire, SizeIsThatOfAllBytesAndFraming) {
  const Fixture f;
  const EncodedMessage message = f.encode();
  EXPECT_EQ(message.size_bytes(), 4 + message.head.size() + 8 + message.bodies[0]->size() + 8 +
                                      message.bodies[1]->size());
  EXPECT_GE(message.bodies[0]->size(), 4u * 1240);
}

TEST(Wire, UpdateRoundTrip) {
  const Fixture f;
  wire::Update update;
  update.num_samples = 600;
  update.scalars["train_loss"] = 1.5;
  update.payloads.push_back({"delta", numbers(model_layout()), 600});
  const EncodedMessage message = encode_update(update, *f.codec, Key(1), f.limits);
  const wire::Update read = decode_update(message, *f.codec, f.limits);
  EXPECT_EQ(read.num_samples, 600);
  EXPECT_EQ(read.payloads[0].weight, 600);
  EXPECT_EQ(read.scalar("train_loss"), 1.5);
  Key key(0);
  EXPECT_THROW(decode_task(message, *f.codec, f.limits, nullptr, key),
               Error);  // an update is not a task
}

// Evidence passes the client's stages by, and a codec that would spoil it.
TEST(Wire, APayloadMayTravelExactlyBesideCodedOnes) {
  const Fixture f;
  struct Case {
    const char* stages;
    bool faithful;  // whether the codec does for evidence
  };
  for (const Case& c :
       {Case{R"([{"stage":"topk","keep":0.1}])", false},
        Case{R"([{"stage":"subsample","keep":0.5}])", false},
        Case{R"([{"stage":"quantize","bits":4}])", false},
        Case{R"([{"stage":"hadamard"},{"stage":"trellis","bits":2}])", false},
        Case{R"([{"stage":"hadamard"},{"stage":"quantize","bits":4}])", true}, Case{"[]", true}}) {
    const auto codec = codec::make_codec(Json::parse(c.stages), "test");
    EXPECT_EQ(travels_exact(Coding::kFaithful, *codec), !c.faithful) << c.stages;
    wire::Update update;
    const auto values = numbers(model_layout());
    for (const Coding coding : {Coding::kRun, Coding::kFaithful, Coding::kExact}) {
      update.payloads.push_back({std::to_string(update.payloads.size()), values, 1});
      update.payloads.back().coding = coding;
    }
    int staged = 0;
    const EncodedMessage message =
        encode_update(update, *codec, Key(1), f.limits,
                      [&](const Payload& payload, const prune::Mask*, Key key, Bytes& out) {
                        ++staged;
                        codec->encode(*payload.values, key, out);
                      });
    EXPECT_EQ(staged, 1);
    const wire::Update read = decode_update(message, *codec, f.limits);
    const auto same = [&](size_t payload) {
      return std::ranges::equal(read.payloads[payload].values->values(), values->values());
    };
    EXPECT_EQ(same(0), codec->lossless()) << c.stages;
    EXPECT_EQ(same(1), !c.faithful || codec->lossless()) << c.stages;
    EXPECT_TRUE(same(2)) << c.stages;
    // Who keeps bodies encoded decodes them by the run's codec.
    WireLimits kept = f.limits;
    kept.keep_encoded = true;
    if (!codec->lossless()) {
      EXPECT_THROW(decode_update(message, *codec, kept), Error) << c.stages;
    }
  }
}

TEST(Wire, AnUpdateOfADifferenceIsThatOfItsValues) {
  const Fixture f;
  const auto before = numbers(model_layout());
  ParameterSet after = *before;
  for (float& value : after.values()) value = value * 1.5f + 0.25f;
  wire::Update made, unmade;
  auto values = std::make_shared<ParameterSet>(model_layout());
  subtract(after.values(), before->values(), values->values());
  made.payloads.push_back({"delta", values, 600});
  wire::Payload& difference = unmade.payloads.emplace_back();
  difference.name = "delta";
  difference.weight = 600;
  difference.before = before;
  difference.after = after.values();
  const EncodedMessage expected = encode_update(made, *f.codec, Key(1), f.limits),
                       message = encode_update(unmade, *f.codec, Key(1), f.limits);
  EXPECT_EQ(message.head, expected.head);
  EXPECT_EQ(*message.bodies[0], *expected.bodies[0]);
  const wire::Update read = decode_update(message, *f.codec, f.limits);
  float largest = 0;
  for (const float value : values->values()) largest = std::max(largest, std::abs(value));
  EXPECT_EQ(read.payloads[0].largest, largest);
}

TEST(Wire, SharedBodiesAreEncodedAndDecodedOnce) {
  const Fixture f;
  EncodedBodies encoded;
  DecodedBodies decoded;
  const EncodedMessage a = f.encode(&encoded), b = f.encode(&encoded);
  EXPECT_EQ(a.bodies[0], b.bodies[0]);
  Key key(0);
  EXPECT_EQ(decode_task(a, *f.codec, f.limits, &decoded, key).payloads[0].values,
            decode_task(b, *f.codec, f.limits, &decoded, key).payloads[0].values);
}

TEST(Wire, EveryTruncationAndBitFlipOfTheHeadIsAnError) {
  const Fixture f;
  const EncodedMessage message = f.encode();
  Key key(0);
  for (size_t size = 0; size < message.head.size(); ++size) {
    EncodedMessage broken = message;
    broken.head.resize(size);
    EXPECT_THROW(decode_task(broken, *f.codec, f.limits, nullptr, key), Error) << size;
  }
  for (size_t bit = 0; bit < 8 * message.head.size(); ++bit) {
    EncodedMessage broken = message;
    broken.head[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_THROW(decode_task(broken, *f.codec, f.limits, nullptr, key), Error) << bit;
  }
  EncodedMessage missing = message;
  missing.bodies.pop_back();
  EXPECT_THROW(decode_task(missing, *f.codec, f.limits, nullptr, key), Error);
  EncodedMessage shortened = message;
  shortened.bodies[0] =
      std::make_shared<Bytes>(message.bodies[0]->begin(), message.bodies[0]->end() - 1);
  EXPECT_THROW(decode_task(shortened, *f.codec, f.limits, nullptr, key), Error);
}

TEST(Wire, APayloadAboveTheLimitIsRefusedBeforeAllocation) {
  Fixture f;
  const EncodedMessage message = f.encode();
  f.limits.max_values = 10;
  Key key(0);
  EXPECT_THROW(decode_task(message, *f.codec, f.limits, nullptr, key), Error);
}

// The model of Fixture with its 40 units stated, and a task for 10 of them.
struct PartFixture : Fixture {
  std::shared_ptr<const ParameterLayout> whole = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{
          {.name = "fc.weight", .shape = {40, 30}, .units = {{.axis = 0, .group = 0}}},
          {.name = "fc.bias", .shape = {40}, .role = Role::kBias, .units = {{.group = 0}}}},
      std::vector<UnitGroup>{{"fc", 40}});
  std::shared_ptr<const ParameterLayout> part = narrow_layout(*whole, std::vector<int64_t>{10});
  PartFixture() {
    limits = {part, 10000};
    task.units = {10};
    task.payloads.resize(1);
    task.payloads[0].values = numbers(part);
    task.submodel_training.widths = {{3}, {10}};
    task.submodel_training.distillation = 0.25;
    task.submodel_training.temperature = 2;
    task.submodel_training.masked_cross_entropy = true;
  }
  wire::Task read() const {
    Key key(0);
    return decode_task(encode(), *codec, {whole, 10000}, nullptr, key);
  }
};

TEST(Wire, ATaskForAPartOfTheModelNamesItsUnits) {
  PartFixture f;
  f.task.kind = wire::TaskKind::kCalibrate;
  const wire::Task read = f.read();
  EXPECT_EQ(read.kind, wire::TaskKind::kCalibrate);
  EXPECT_EQ(read.units, f.task.units);
  EXPECT_EQ(read.submodel_training, f.task.submodel_training);
  EXPECT_TRUE(read.payload("model").values->layout() == *f.part);
  EXPECT_TRUE(std::ranges::equal(read.payload("model").values->values(),
                                 f.task.payloads[0].values->values()));
  // The description costs a few bytes, not names and shapes.
  Fixture whole;
  whole.task.payloads.resize(1);
  PartFixture plain;
  plain.task.submodel_training = {};
  EXPECT_LT(plain.encode().head.size(), whole.encode().head.size() + 8);
}

TEST(Wire, UnitsThatDoNotFitTheModelAreRefused) {
  for (const std::vector<int64_t>& units :
       std::vector<std::vector<int64_t>>{{41}, {10, 10}, {int64_t{1} << 39}}) {
    PartFixture f;
    f.task.units = units;
    EXPECT_THROW(f.read(), Error);
  }
  PartFixture wide;
  wide.task.submodel_training.widths = {{11}};
  EXPECT_THROW(wide.read(), Error);
  PartFixture many;
  many.task.submodel_training.widths.assign(65, {3});
  EXPECT_THROW(many.read(), Error);
  PartFixture hot;
  hot.task.submodel_training.temperature = -1;
  EXPECT_THROW(hot.read(), Error);
}

TEST(Wire, MorePayloadsThanExpectedAreRefusedBeforeTheyAreDecoded) {
  const Fixture f;
  wire::Update update;
  update.payloads.assign(3, {"delta", numbers(model_layout()), 1});
  const EncodedMessage message = encode_update(update, *f.codec, Key(1), f.limits);
  WireLimits limits = f.limits;
  limits.max_payloads = 2;
  EXPECT_THROW(decode_update(message, *f.codec, limits), Error);
}

// Every third value of the model is kept.
std::shared_ptr<const wire::TravellingMask> some_mask(uint32_t round) {
  const auto layout = model_layout();
  std::vector<uint64_t> words(static_cast<size_t>(layout->size() + 63) / 64, 0);
  for (size_t i = 0; i < static_cast<size_t>(layout->size()); i += 3)
    words[i / 64] |= uint64_t{1} << (i % 64);
  return std::make_shared<wire::TravellingMask>(prune::Mask(layout, words), round);
}

TEST(Wire, AMaskTravelsOnceAndThenOnlyItsValues) {
  Fixture f;
  const EncodedMessage dense = f.encode();
  f.task.mask = some_mask(4);  // the client's state is of round 3: it has not seen it
  const EncodedMessage first = f.encode();
  f.task.mask = some_mask(3);
  const EncodedMessage later = f.encode();
  EXPECT_EQ(first.bodies.size(), 3u);
  EXPECT_EQ(later.bodies.size(), 2u);
  EXPECT_LT(first.size_bytes(), dense.size_bytes() / 2);
  EXPECT_EQ(first.size_bytes() - later.size_bytes(), f.task.mask->bytes.size() + 8);

  Key key(0);
  const wire::Task read = decode_task(first, *f.codec, f.limits, nullptr, key);
  ParameterSet expected = *f.task.payloads[0].values;
  f.task.mask->mask.apply(expected.values());
  EXPECT_TRUE(std::ranges::equal(read.payload("model").values->values(), expected.values()));
  // Values of another layout are not the mask's business.
  EXPECT_TRUE(std::ranges::equal(read.payload("features").values->values(),
                                 f.task.payloads[1].values->values()));
  EXPECT_TRUE(read.mask->mask == f.task.mask->mask);
  EXPECT_EQ(read.mask->round, 4u);

  EXPECT_THROW(decode_task(later, *f.codec, f.limits, nullptr, key), Error);
  uint32_t asked = 0;
  const wire::Task held = decode_task(later, *f.codec, f.limits, nullptr, key, {},
                                      [&](const wire::Task&, uint32_t round) {
                                        asked = round;
                                        return std::span<const uint8_t>(f.task.mask->bytes);
                                      });
  EXPECT_EQ(asked, 3u);
  EXPECT_TRUE(std::ranges::equal(held.payload("model").values->values(), expected.values()));
  // A mask of something else.
  EXPECT_THROW(decode_task(later, *f.codec, f.limits, nullptr, key, {},
                           [&](const wire::Task&, uint32_t) {
                             return std::span<const uint8_t>(f.task.mask->bytes).first(5);
                           }),
               Error);
}

TEST(Wire, AnUpdateUsesItsTasksMaskOrBringsItsOwn) {
  Fixture f;
  wire::Update update;
  update.payloads.push_back({"delta", numbers(model_layout()), 1});
  ParameterSet expected = *update.payloads[0].values;
  update.mask = some_mask(7);
  update.mask->mask.apply(expected.values());
  const EncodedMessage own = encode_update(update, *f.codec, Key(1), f.limits);
  WireLimits with_task = f.limits;
  with_task.mask = update.mask;
  const EncodedMessage same = encode_update(update, *f.codec, Key(1), with_task);
  EXPECT_EQ(own.size_bytes() - same.size_bytes(), update.mask->bytes.size() + 8);
  for (const auto& [message, limits] :
       {std::pair{&own, &f.limits}, {&own, &with_task}, {&same, &with_task}}) {
    const wire::Update read = decode_update(*message, *f.codec, *limits);
    EXPECT_TRUE(std::ranges::equal(read.payloads[0].values->values(), expected.values()));
    EXPECT_TRUE(read.mask->mask == update.mask->mask);
  }
  EXPECT_THROW(decode_update(same, *f.codec, f.limits), Error);
  // The body that should be the mask's.
  EncodedMessage cut = own;
  cut.bodies.pop_back();
  EXPECT_THROW(decode_update(cut, *f.codec, f.limits), Error);
  cut.bodies.clear();
  EXPECT_THROW(decode_update(cut, *f.codec, f.limits), Error);
}

}  // namespace
}  // namespace espalier::wire
