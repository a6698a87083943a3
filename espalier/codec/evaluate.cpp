#include "espalier/codec/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "espalier/base/clock.h"
#include "espalier/base/error.h"
#include "espalier/codec/fwht.h"
#include "espalier/codec/pipeline.h"

namespace espalier::codec {

Evaluation evaluate(const Codec& codec, const ParameterSet& x, uint64_t trials, Key key) {
  ESPALIER_CHECK(trials > 0);
  const auto values = x.values();
  const double norm = std::max(squared_norm(values), std::numeric_limits<double>::min());
  ParameterSet decoded(x.shared_layout());
  std::vector<double> total_error(values.size(), 0.0);
  double error = 0;
  uint64_t bytes = 0;
  Bytes message;
  for (uint64_t t = 0; t < trials; ++t) {
    message.clear();
    codec.encode(x, key.child(t), message);
    codec.decode(message, decoded);
    bytes += message.size();
    for (size_t i = 0; i < values.size(); ++i) {
      const double difference =
          static_cast<double>(decoded.values()[i]) - static_cast<double>(values[i]);
      error += difference * difference;
      total_error[i] += difference;
    }
  }
  const auto count = static_cast<double>(trials);
  Evaluation result;
  result.vnmse = error / count / norm;
  for (const double sum : total_error) result.bias2 += (sum / count) * (sum / count) / norm;
  result.bits_per_coordinate = 8 * static_cast<double>(bytes) / count /
                               static_cast<double>(std::max<size_t>(values.size(), 1));
  result.encoded_bytes = (bytes + trials / 2) / trials;
  return result;
}

namespace {

// The least time of one call of `work`, over about `seconds` and at least three calls.
template <class Work>
double best_seconds(double seconds, Work&& work) {
  double best = std::numeric_limits<double>::infinity();
  const Stopwatch total;
  for (int calls = 0; calls < 3 || total.seconds() < seconds; ++calls) {
    const Stopwatch watch;
    work();
    best = std::min(best, watch.seconds());
  }
  return best;
}

}  // namespace

Speed measure_speed(const Codec& codec, const ParameterSet& x, size_t threads, double seconds) {
  std::vector<Bytes> messages(threads);
  std::vector<ParameterSet> decoded(threads, ParameterSet(x.shared_layout()));
  const auto in_all_threads = [&](const auto& work) {
    std::vector<std::thread> others;
    for (size_t t = 1; t < threads; ++t) others.emplace_back([&, t] { work(t); });
    work(0);
    for (std::thread& other : others) other.join();
  };
  Speed speed;
  speed.encode_seconds = best_seconds(seconds, [&] {
    in_all_threads([&](size_t t) {
      messages[t].clear();
      codec.encode(x, Key(t), messages[t]);
    });
  });
  speed.decode_seconds = best_seconds(
      seconds, [&] { in_all_threads([&](size_t t) { codec.decode(messages[t], decoded[t]); }); });
  speed.encoded_bytes = messages[0].size();
  return speed;
}

MemorySpeed measure_memory(size_t num_values) {
  AlignedVector<float> from(num_values, 1.0f), to(num_values, 2.0f);
  MemorySpeed speed;
  const auto count = static_cast<double>(num_values);
  speed.memcpy_bytes_per_second = 4 * count / best_seconds(0.2, [&] {
                                    std::memcpy(to.data(), from.data(), num_values * sizeof(float));
                                    from[num_values / 2] += to[num_values / 3];  // the copy is used
                                  });
  speed.modify_values_per_second = count / best_seconds(0.2, [&] { scale(to, 0.999f); });
  return speed;
}

const std::vector<std::string>& example_laws() {
  static const std::vector<std::string> names = {"lognormal", "normal", "spiky", "two-hot",
                                                 "geometric"};
  return names;
}

ParameterSet make_example(std::string_view law, size_t size, Key key) {
  ParameterSet x(std::make_shared<ParameterLayout>(
      std::vector<ParameterInfo>{{"x", {static_cast<int64_t>(size)}}}));
  Stream stream(key);
  const auto values = x.values();
  if (law == "lognormal") {
    for (float& value : values) value = static_cast<float>(std::exp(stream.normal()));
  } else if (law == "normal" || law == "spiky") {
    for (float& value : values) value = static_cast<float>(stream.normal());
    if (law == "spiky") {
      for (float& value : values) value *= stream.below(100) == 0 ? 100.0f : 1.0f;
    }
  } else if (law == "two-hot") {
    for (const uint64_t i : sample_without_replacement(key, size, std::min<size_t>(size, 2)))
      values[i] = 1;
  } else if (law == "geometric") {
    for (size_t i = 0; i < size; ++i)
      values[i] = static_cast<float>(std::pow(0.9, static_cast<double>(i)));
  } else {
    fail("codec", unknown_name_message("distribution", law, example_laws()));
  }
  return x;
}

std::unique_ptr<Codec> make_codec_for_example(std::string_view stages) {
  Json tables = parse_stages(stages);
  for (Json& table : tables) table["for"] = "x";
  return make_codec(tables, "stages");
}

}  // namespace espalier::codec
