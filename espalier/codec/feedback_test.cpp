#include "espalier/codec/feedback.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/codec/evaluate.h"

namespace espalier::codec {
namespace {

std::shared_ptr<const ParameterLayout> layout_of(int64_t size) {
  return std::make_shared<ParameterLayout>(std::vector<ParameterInfo>{{"x", {size}}});
}

// Beznosikov et al. 2020, example 1: f_i(w) = ⟨a_i, w⟩² + ‖w‖²/4 for three workers. From (1, 1, 1)
// top-1 of each gradient keeps only the one coordinate that points away from the minimum at 0.
const std::array<std::array<float, 3>, 3> kDirections = {{{-3, 2, 2}, {2, -3, 2}, {2, 2, -3}}};

ParameterSet gradient(size_t worker, const std::array<double, 3>& w) {
  const auto& a = kDirections[worker];
  double product = 0;
  for (size_t i = 0; i < 3; ++i) product += static_cast<double>(a[i]) * w[i];
  ParameterSet g(layout_of(3));
  for (size_t i = 0; i < 3; ++i)
    g.values()[i] = static_cast<float>(2 * product * static_cast<double>(a[i]) + w[i] / 2);
  return g;
}

double norm(const std::array<double, 3>& w) {
  return std::sqrt(w[0] * w[0] + w[1] * w[1] + w[2] * w[2]);
}

template <class Decoded>
double descend(int steps, double rate, Decoded&& decoded) {
  std::array<double, 3> w = {1, 1, 1};
  for (int t = 0; t < steps; ++t) {
    std::array<double, 3> mean{};
    for (size_t worker = 0; worker < 3; ++worker) {
      const ParameterSet g =
          decoded(worker, gradient(worker, w), Key(static_cast<uint64_t>(t)).child(worker));
      for (size_t i = 0; i < 3; ++i) mean[i] += static_cast<double>(g.values()[i]) / 3;
    }
    for (size_t i = 0; i < 3; ++i) w[i] -= rate * mean[i];
  }
  return norm(w);
}

TEST(Feedback, PlainTopKDivergesAndBothFormsConverge) {
  const auto codec = make_codec_for_example("topk:keep=0.34");
  const double rate = 0.005;
  const double plain = descend(300, rate, [&](size_t, const ParameterSet& g, Key key) {
    Bytes message;
    codec->encode(g, key, message);
    ParameterSet y(g.shared_layout());
    codec->decode(message, y);
    return y;
  });
  EXPECT_GT(plain, 10);

  std::vector<Ef21> senders(3, Ef21(layout_of(3))), receivers = senders;
  const double ef21 = descend(4000, rate, [&](size_t worker, const ParameterSet& g, Key key) {
    Bytes message;
    senders[worker].encode(*codec, g, key, message);
    receivers[worker].decode(*codec, message);
    EXPECT_TRUE(std::ranges::equal(senders[worker].estimate().values(),
                                   receivers[worker].estimate().values()));
    return receivers[worker].estimate();
  });
  EXPECT_LT(ef21, 1e-3);

  std::vector<ResidualFeedback> clients(3, ResidualFeedback(layout_of(3)));
  const double residual = descend(4000, rate, [&](size_t worker, const ParameterSet& g, Key key) {
    Bytes message;
    clients[worker].encode(*codec, g, key, message);
    ParameterSet y(g.shared_layout());
    codec->decode(message, y);
    return y;
  });
  EXPECT_LT(residual, 1e-2);
}

TEST(Feedback, EstimatesApproachAConstantAndResidualsStayBounded) {
  const ParameterSet x = make_example("lognormal", 4096, Key(1));
  for (const char* stages :
       {"topk:keep=0.1", "randomk:keep=0.1", "cast", "hadamard,eden:bits=2:unbiased=false"}) {
    const auto codec = make_codec_for_example(stages);
    EXPECT_FALSE(codec->unbiased());
    Ef21 ef21(x.shared_layout());
    ResidualFeedback feedback(x.shared_layout());
    ParameterSet sum(x.shared_layout()), decoded(x.shared_layout());
    const int rounds = 100;
    for (int t = 0; t < rounds; ++t) {
      Bytes message;
      ef21.encode(*codec, x, Key(static_cast<uint64_t>(t)), message);
      message.clear();
      feedback.encode(*codec, x, Key(static_cast<uint64_t>(t)), message);
      codec->decode(message, decoded);
      add_scaled(sum.values(), 1.0f / rounds, decoded.values());
    }
    ParameterSet difference(x.shared_layout());
    subtract(x.values(), ef21.estimate().values(), difference.values());
    EXPECT_LT(squared_norm(difference.values()), 1e-3 * squared_norm(x.values())) << stages;
    // The mean of all that was sent is off by residual/rounds only.
    subtract(x.values(), sum.values(), difference.values());
    EXPECT_LT(squared_norm(difference.values()), 0.05 * squared_norm(x.values())) << stages;
  }
}

TEST(Feedback, FailuresLeaveTheStateAlone) {
  const auto codec = make_codec_for_example("topk:keep=0.1");
  ParameterSet x = make_example("normal", 100, Key(1));
  Ef21 ef21(x.shared_layout());
  ResidualFeedback feedback(x.shared_layout());
  Bytes message, other;
  ef21.encode(*codec, x, Key(1), message);
  feedback.encode(*codec, x, Key(1), other);
  const ParameterSet estimate = ef21.estimate(), residual = feedback.residual();
  x.values()[5] = std::nanf("");
  EXPECT_THROW(ef21.encode(*codec, x, Key(2), message), Error);
  EXPECT_THROW(feedback.encode(*codec, x, Key(2), other), Error);
  message[message.size() / 2] ^= 1;
  EXPECT_THROW(ef21.decode(*codec, message), Error);
  EXPECT_TRUE(std::ranges::equal(ef21.estimate().values(), estimate.values()));
  EXPECT_TRUE(std::ranges::equal(feedback.residual().values(), residual.values()));
}

}  // namespace
}  // namespace espalier::codec
