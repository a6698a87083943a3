// Every row of the table of stages, and the pipelines people use, against one contract.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "espalier/base/error.h"
#include "espalier/codec/codec.h"
#include "espalier/codec/message.h"
#include "espalier/codec/pipeline.h"
#include "espalier/codec/test_damage.h"

namespace espalier::codec {
namespace {

const std::vector<size_t> kSizes = {0, 1, 7, 1023, 1024, 4096, 100003};

struct Case {
  std::string text;
  // Bound of ‖decoded − x‖ relative to ‖x‖, for every x and key; 0: exact.
  double bound;
};

// Worst cases: quantization errs by one step per coordinate, (max − min) ≤ 2‖x‖, over √n
// coordinates of at most 100 003; what is dropped and scaled up errs by at most N/m times the norm.
const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {"identity", 0},
      {"hadamard", 1e-6},
      {"hadamard:block=0", 1e-6},
      {"hadamard:block=1024:rotations=2", 1e-6},
      {"kashin", 1e-6},
      {"kashin:block=0:iterations=5", 1e-6},
      {"kashin:clip_last=true", 1.0},
      {"subsample:keep=0.25", 4.1},
      {"hadamard,subsample:keep=0.5", 2.1},
      {"quantize:bits=1", 700},
      {"quantize:bits=16", 0.02},
      {"quantize:bits=5:block=1024", 25},
      {"hadamard,quantize:bits=4", 20},
      {"hadamard:block=0,quantize:bits=2", 300},
      {"kashin,quantize:bits=2", 120},
      {"hadamard,subsample:keep=0.5,quantize:bits=4", 30},
      {"hadamard:rotations=2,eden:bits=1", 20},
      {"hadamard:rotations=2:block=0,eden:bits=2", 20},
      {"hadamard,eden:bits=2.585", 20},
      {"hadamard,eden:bits=4:unbiased=false", 1},
      {"hadamard,dithered:bits=2", 2},
      {"hadamard:block=0,dithered:bits=0.5", 8},
      {"hadamard,subsample:keep=0.25,dithered:bits=4", 4.5},
      {"dithered:bits=3", 1},
      {"hadamard,trellis:bits=3", 1},
      {"hadamard:block=1024,randomk:keep=0.5,trellis:bits=2", 1.001},
      {"topk:keep=0.01", 1},
      {"topk:keep=0.3,quantize:bits=8", 3},
      {"topk:keep=0.1,cast", 1},
      {"randomk:keep=0.1", 1},
      {"hadamard,randomk:keep=0.1", 1.001},
      {"cast", 0.004},
      {"cast:to=fp16", 0.0006},
  };
  return list;
}

std::vector<float> random_values(size_t n, uint64_t seed) {
  Stream stream{Key(seed)};
  std::vector<float> x(n);
  for (float& value : x)
    value = static_cast<float>(std::exp(stream.normal()) * (stream.u32() % 2 ? 1 : -1));
  return x;
}

Bytes encoded(const Pipeline& pipeline, std::span<const float> x, Key key) {
  Bytes bytes;
  pipeline.encode(x, key, "x", bytes);
  return bytes;
}

std::vector<float> decoded(const Pipeline& pipeline, std::span<const uint8_t> bytes, Key key,
                           size_t n) {
  std::vector<float> y(n, std::nanf(""));
  ByteReader reader(bytes, "test");
  pipeline.decode(reader, key, "x", y);
  reader.finish();
  return y;
}

double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return std::sqrt(sum);
}

class Conformance : public testing::TestWithParam<Case> {
 protected:
  Pipeline pipeline_ = Pipeline::from_text(GetParam().text);
};

TEST_P(Conformance, RoundTripsWithinItsBoundAtEverySize) {
  for (const size_t n : kSizes) {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const auto x = random_values(n, seed);
      const Bytes bytes = encoded(pipeline_, x, Key(seed));
      EXPECT_LE(bytes.size(), pipeline_.max_bytes(n)) << n;
      EXPECT_EQ(bytes, encoded(pipeline_, x, Key(seed))) << n;
      const auto y = decoded(pipeline_, bytes, Key(seed), n);
      if (GetParam().bound == 0) {
        EXPECT_EQ(y, x);
      }
      EXPECT_LE(distance(x, y), GetParam().bound * std::sqrt(squared_norm(x)) * (1 + 1e-6)) << n;
    }
  }
}

// As a server keeps feature maps: a message of many tensors of which any one is decoded alone.
TEST_P(Conformance, OneTensorOfAMessageDecodesAsInTheWhole) {
  const auto codec = make_codec(parse_stages(GetParam().text), "uplink");
  const auto layout = std::make_shared<const ParameterLayout>(
      std::vector<ParameterInfo>{{"a.weight", {3, 40, 25}, Role::kWeight},
                                 {"a.bias", {40}, Role::kBias},
                                 {"b.weight", {70000}, Role::kWeight},
                                 {"count", {}, Role::kCounter},
                                 {"none", {0, 4}, Role::kWeight},
                                 {"c.weight", {600}, Role::kWeight}});
  ParameterSet x(layout), whole(layout);
  std::ranges::copy(random_values(x.size(), 8), x.values().begin());
  x.values("count")[0] = 12345;
  Bytes message;
  codec->encode(x, Key(6), message);
  codec->decode(message, whole);
  const MessageIndex index = codec->index(message, layout);
  ASSERT_EQ(index.num_tensors(), layout->tensors().size());
  for (size_t t = index.num_tensors(); t-- > 0;) {
    const ParameterInfo& tensor = layout->tensors()[t];
    const Bytes payload(
        message.begin() + static_cast<ptrdiff_t>(index.range(t).offset),
        message.begin() + static_cast<ptrdiff_t>(index.range(t).offset + index.range(t).size));
    std::vector<float> alone(static_cast<size_t>(tensor.size), std::nanf(""));
    codec->decode_tensor(index, t, payload, alone);
    EXPECT_TRUE(std::ranges::equal(alone, whole.values(tensor))) << tensor.name;
  }
}

TEST_P(Conformance, TextAndWireFormMakeTheSamePipeline) {
  Bytes wire;
  pipeline_.to_wire(wire);
  ByteReader reader(wire, "test");
  const Pipeline copy = Pipeline::from_wire(reader);
  reader.finish();
  EXPECT_EQ(copy.describe(), pipeline_.describe());
  EXPECT_EQ(Pipeline::from_text(pipeline_.describe()).describe(), pipeline_.describe());
  const auto x = random_values(3000, 1);
  EXPECT_EQ(encoded(copy, x, Key(4)), encoded(pipeline_, x, Key(4)));
}

TEST_P(Conformance, StrangeButFiniteValues) {
  const size_t n = 5000;
  std::map<std::string, std::function<float(size_t)>> inputs = {
      {"zeros", [](size_t) { return 0.0f; }},
      {"negative zeros", [](size_t) { return -0.0f; }},
      {"constant", [](size_t) { return 0.1f; }},
      {"denormals",
       [](size_t i) { return static_cast<float>(static_cast<int>(i % 17) - 8) * 0x1p-149f; }},
      {"one spike", [](size_t i) { return i == 4321 ? 1.0f : 0.0f; }},
  };
  // fp16 refuses large values.
  const bool half = GetParam().text.find("fp16") != std::string::npos;
  if (!half)
    inputs["huge range"] = [](size_t i) {
      return std::ldexp(i % 2 ? 1.0f : -1.0f, static_cast<int>(i % 190) - 94);
    };
  for (const auto& [name, value] : inputs) {
    std::vector<float> x(n);
    for (size_t i = 0; i < n; ++i) x[i] = value(i);
    const auto y = decoded(pipeline_, encoded(pipeline_, x, Key(1)), Key(1), n);
    // Ends of blocks are bfloat16, whose denormals are multiples of 2^-133; half stops at 2^-25.
    const double floor = std::sqrt(static_cast<double>(n)) * (half ? 0x1p-25 : 0x1p-132);
    EXPECT_LE(distance(x, y),
              std::max(GetParam().bound, 1e-6) * std::sqrt(squared_norm(x)) * (1 + 1e-6) + floor)
        << name;
    if (name == "zeros") {
      EXPECT_EQ(y, x);
    }
  }
}

TEST_P(Conformance, NanInfinityAndAbsurdMagnitudesAreRefused) {
  for (const size_t n : {1u, 1023u, 5000u}) {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(), 3e38f}) {
      if (bad == 3e38f && pipeline_.lossless()) continue;
      auto x = random_values(n, 3);
      x[n * 2 / 3] = bad;
      Bytes bytes;
      EXPECT_THROW(pipeline_.encode(x, Key(1), "x", bytes), Error) << n << " " << bad;
    }
  }
}

TEST_P(Conformance, DamagedPayloadsAreErrorsOrFiniteValues) {
  // Without the checksum of a message, as from a hostile peer.
  for (const size_t n : {7u, 1500u}) {
    const auto x = random_values(n, 5);
    const Bytes good = encoded(pipeline_, x, Key(2));
    const auto try_decode = [&](std::span<const uint8_t> bytes) {
      try {
        for (const float value : decoded(pipeline_, bytes, Key(2), n))
          ASSERT_TRUE(std::isfinite(value));
      } catch (const Error&) {
      }
    };
    for (size_t size = 0; size < good.size(); size += 1 + size / 64) {
      const auto cut = std::span(good).first(size);
      EXPECT_THROW(decoded(pipeline_, cut, Key(2), n), Error) << size << " of " << good.size();
    }
    Stream stream{Key(9)};
    for (int flip = 0; flip < 400; ++flip) {
      const uint64_t bit = flip < 128 ? static_cast<uint64_t>(flip) % (8 * good.size())
                                      : stream.below(8 * good.size());
      try_decode(with_flipped_bit(good, bit));
    }
  }
}

// Unbiased codecs: the mean error of every coordinate is within 5.5 of its standard deviations
// (estimated; the mean square over all coordinates is added because a rare event may not have
// happened to one of them). Biased codecs must be contractions, which is what error feedback needs:
// E‖x − x̂‖² ≤ ‖x‖².
TEST_P(Conformance, UnbiasedWhereDeclaredElseAContraction) {
  const size_t n = 256;
  std::map<std::string, std::vector<float>> inputs;
  inputs["dense"] = random_values(n, 1);
  inputs["two-hot"] = std::vector<float>(n, 0.0f);
  inputs["two-hot"][3] = inputs["two-hot"][200] = 1;
  inputs["spike"] = std::vector<float>(n, 0.0f);
  inputs["spike"][77] = -2;
  inputs["geometric"].resize(n);
  for (size_t i = 0; i < n; ++i)
    inputs["geometric"][i] = static_cast<float>(std::pow(0.8, static_cast<double>(i)));
  const int trials = 3000;
  for (const auto& [name, x] : inputs) {
    std::vector<double> mean(n, 0.0), square(n, 0.0);
    for (int t = 0; t < trials; ++t) {
      const Key key(static_cast<uint64_t>(t) + 1000);
      const auto y = decoded(pipeline_, encoded(pipeline_, x, key), key, n);
      for (size_t i = 0; i < n; ++i) {
        const double error = static_cast<double>(y[i]) - static_cast<double>(x[i]);
        mean[i] += error / trials;
        square[i] += error * error / trials;
      }
    }
    const double total = std::accumulate(square.begin(), square.end(), 0.0);
    if (!pipeline_.unbiased()) {
      EXPECT_LE(total, squared_norm(x) * (1 + 1e-6)) << name;
      continue;
    }
    const double rounding = 1e-6 * std::sqrt(squared_norm(x));
    for (size_t i = 0; i < n; ++i) {
      const double deviation = std::sqrt((square[i] + total / static_cast<double>(n)) / trials);
      EXPECT_LE(std::abs(mean[i]), 5.5 * deviation + rounding) << name << " coordinate " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Pipelines, Conformance, testing::ValuesIn(cases()), [](const auto& row) {
  std::string name = row.param.text;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); },
      '_');
  return name;
});

TEST(Registry, EveryStageIsInTheSuiteAndNamesAndNumbersAreUnique) {
  std::set<std::string> names;
  std::set<int> ids;
  for (const StageRow& row : stage_rows()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_TRUE(ids.insert(row.wire_id).second) << row.name;
    EXPECT_FALSE(row.summary.empty());
    const bool covered = std::any_of(cases().begin(), cases().end(), [&](const Case& c) {
      for (const Json& table : parse_stages(c.text)) {
        if (table.at("stage") == row.name) return true;
      }
      return false;
    });
    EXPECT_TRUE(covered) << row.name << " has no case above";
  }
}

TEST(Pipeline, SenselessCombinationsAreRefusedWithTheReason) {
  const std::map<std::string, std::string> refused = {
      {"quantize,hadamard", "too late"},
      {"hadamard,kashin", "at most one transform"},
      {"quantize,cast", "at most one"},
      {"identity,quantize", "stands alone"},
      {"hadamard,topk", "alike"},
      {"kashin,dithered", "not Gaussian"},
      {"eden:bits=2", "put hadamard before"},
      {"hadamard,subsample,trellis", "use randomk"},
      {"hadamard,quantize:block=1024", "first stage"},
      {"hadamard:block=1000", "1024"},
      {"hadamard:blocks=1024", "did you mean"},
      {"hadamrd", "did you mean 'hadamard'"},
      {"quantize:bits=17", "at most 16"},
      {"quantize:bits", "option=value"},
      {"cast:to=fp8", "bf16"},
      {"subsample:keep=0", "above 0"},
  };
  for (const auto& [text, reason] : refused) {
    try {
      Pipeline::from_text(text);
      ADD_FAILURE() << text << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace espalier::codec
