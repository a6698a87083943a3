// Training steps of our Trainer against libtorch's default behaviour: contiguous tensors, default
// heap, autograd, torch::optim::SGD; BLAS held to one thread in both. The baseline runs in a child
// process of this program, so that our heap settings do not help it; the two are run in turns and
// medians compared. Beside each step stands its floor on this machine (floors.h, peaks.h, both
// measured by the same run) and how far from it the step is; with --layers, the same for each layer
// and direction.
//
//   step_bench [--json] [--rounds N] [--only MODEL] [--layers] [--no-libtorch] [--seconds S]
//   step_bench --peaks [--json] [--threads N]
//   step_bench --check   a quick look at the small models; fails where a step beats its floor
#include <dlfcn.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "bench/harness.h"
#include "bench/layer_times.h"
#include "bench/noise_images.h"
#include "bench/peaks.h"
#include "espalier/base/clock.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/models.h"
#include "espalier/models/process.h"
#include "espalier/train/trainer.h"

namespace espalier::models {
namespace {

struct Case {
  std::string model;
  std::vector<int64_t> shape;
  int64_t batch;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {{"mlp", {1, 28, 28}, 10},
                                        {"cnn", {1, 28, 28}, 10},
                                        {"cnn-cifar", {3, 32, 32}, 10},
                                        {"resnet8", {3, 32, 32}, 16},
                                        {"resnet8", {3, 32, 32}, 64},
                                        {"resnet20", {3, 32, 32}, 16},
                                        {"resnet20", {3, 32, 32}, 64},
                                        {"resnet32", {3, 32, 32}, 64},
                                        {"vgg11", {3, 32, 32}, 64},
                                        {"resnet8-client", {3, 32, 32}, 64},
                                        {"resnet56-gkt", {3, 32, 32}, 64},
                                        {"small-gkt", {1, 28, 28}, 64},
                                        {"lstm", {80}, 10}};  // sequences of 80 tokens
  return all;
}

// Of a measurement; of a libtorch one, which a process of its own makes, always the default.
constexpr double kMinSeconds = 0.3;
constexpr int64_t kVocabulary = 86;

bool is_text(const Case& c) { return c.shape.size() == 1; }

Graph graph_of(const Case& c) {
  ModelOptions options;
  options.name = c.model;
  DataSpec data;
  data.sample_shape = c.shape;
  data.num_classes = 10;
  if (is_text(c)) {
    data.kind = data::Kind::kTokens;
    data.num_classes = data.vocabulary = kVocabulary;
  }
  return std::move(*build_graph(options, data));
}

// --- the baseline: what a person writes with libtorch's C++ interface
// -------------------------------------------------------

struct TorchModuleImpl : torch::nn::Module {
  explicit TorchModuleImpl(Graph g) : graph(std::move(g)) {
    for (const Node& n : graph.nodes) {
      const std::string name = concat("node", layers.size());
      switch (n.op) {
        case Op::kConv:
          layers.emplace_back(torch::nn::Sequential(
              torch::nn::Conv2d(torch::nn::Conv2dOptions(n.in.channels, n.out.channels, n.kernel)
                                    .stride(n.stride)
                                    .padding(n.padding)
                                    .bias(n.bias != kNone))));
          break;
        case Op::kLinear:
          layers.emplace_back(torch::nn::Sequential(torch::nn::Linear(n.in.size(), n.out.size())));
          break;
        case Op::kBatchNorm:
          layers.emplace_back(torch::nn::Sequential(torch::nn::BatchNorm2d(n.in.channels)));
          break;
        default:
          layers.emplace_back(torch::nn::Sequential());
      }
      register_module(name, layers.back());
    }
  }
  torch::Tensor forward(const torch::Tensor& x) {
    std::vector<torch::Tensor> values;
    for (size_t i = 0; i < layers.size(); ++i) {
      const Node& n = graph.nodes[i];
      torch::Tensor y = n.input == kGraphInput ? x : values[static_cast<size_t>(n.input)];
      if (n.op == Op::kMaxPool) {
        y = torch::max_pool2d(y, n.kernel);
      } else if (n.op == Op::kFlatten) {
        y = y.flatten(1);
      } else if (n.op == Op::kGlobalAverage) {
        y = y.mean({2, 3});
      } else {
        y = layers[i]->forward(y);
      }
      if (n.residual >= 0) y = y + values[static_cast<size_t>(n.residual)];
      values.push_back(n.relu ? torch::relu(y) : y);
    }
    return values.back();
  }
  Graph graph;
  std::vector<torch::nn::Sequential> layers;
};
TORCH_MODULE(TorchModule);

struct TorchLstmImpl : torch::nn::Module {
  explicit TorchLstmImpl(const ModelOptions& options)
      : embedding(
            register_module("embedding", torch::nn::Embedding(kVocabulary, options.embedding))),
        lstm(register_module(
            "lstm", torch::nn::LSTM(torch::nn::LSTMOptions(options.embedding, options.lstm_units)
                                        .num_layers(options.lstm_layers)
                                        .batch_first(true)))),
        fc(register_module("fc", torch::nn::Linear(options.lstm_units, kVocabulary))) {}
  torch::Tensor forward(const torch::Tensor& x) {
    return fc(std::get<0>(lstm(embedding(x))).select(1, -1));
  }
  torch::nn::Embedding embedding;
  torch::nn::LSTM lstm;
  torch::nn::Linear fc;
};
TORCH_MODULE(TorchLstm);

template <class Model>
double seconds_of(Model model, const torch::Tensor& x, const torch::Tensor& labels) {
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.01));
  const auto step = [&] {
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(model->forward(x), labels).backward();
    optimizer.step();
  };
  for (int i = 0; i < 3; ++i) step();
  const Stopwatch watch;
  int steps = 0;
  for (; steps < 3 || watch.seconds() < kMinSeconds; ++steps) step();
  return watch.seconds() / steps;
}

double baseline_seconds(const Case& c) {
  if (is_text(c)) {
    return seconds_of(TorchLstm(ModelOptions{}), torch::randint(kVocabulary, {c.batch, c.shape[0]}),
                      torch::randint(kVocabulary, {c.batch}));
  }
  return seconds_of(TorchModule(graph_of(c)),
                    torch::randn({c.batch, c.shape[0], c.shape[1], c.shape[2]}),
                    torch::randint(10, {c.batch}));
}

void one_blas_thread() {
  if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads"); symbol != nullptr) {
    reinterpret_cast<void (*)(int)>(symbol)(1);
  }
}

// --- ours, gathering included
// -------------------------------------------------------------------------------------------------

// Random token sequences and classes.
data::Dataset noise_tokens(const Case& c) {
  constexpr size_t kCount = 2000;
  data::Dataset set;
  set.name = "bench";
  set.kind = data::Kind::kTokens;
  set.sample_shape = c.shape;
  set.num_classes = set.vocabulary = kVocabulary;
  Stream stream(Key(1));
  for (size_t i = 0; i < kCount; ++i)
    set.labels.push_back(static_cast<int32_t>(stream.below(kVocabulary)));
  for (size_t i = 0; i < kCount * set.sample_size(); ++i)
    set.tokens.push_back(static_cast<int32_t>(stream.below(kVocabulary)));
  set.validate();
  return set;
}

class Ours {
 public:
  Ours(const Case& c, const std::string& precision)
      : batch_(c.batch), set_(is_text(c) ? noise_tokens(c) : bench::noise_images(c.shape, 2000)) {
    ModelOptions options;
    options.name = c.model;
    trainer_ = make_trainer(options, spec_of(set_), {precision, "cpu"});
    ParameterSet weights(trainer_->layout());
    trainer_->initialize(Key(2), weights);
    trainer_->load(weights);
    run(3);
  }
  double seconds(double least) {
    const Stopwatch watch;
    int64_t steps = 0;
    while (steps < 3 || watch.seconds() < least) steps += run(steps_per_fit());
    return watch.seconds() / static_cast<double>(steps);
  }

 private:
  int64_t steps_per_fit() const { return std::max<int64_t>(1, 600 / batch_); }
  int64_t run(int64_t steps) {
    std::vector<uint32_t> samples(static_cast<size_t>(steps * batch_));
    for (size_t i = 0; i < samples.size(); ++i) samples[i] = static_cast<uint32_t>(i % set_.size());
    StepOptions options;
    options.lr = 0.01;
    options.batch_size = batch_;
    trainer_->fit(set_, samples, options, {}, Key(3));
    return steps;
  }

  int64_t batch_;
  data::Dataset set_;
  std::unique_ptr<Trainer> trainer_;
};

// --- floors

std::string rate_text(double per_second) { return bench::text("%.1f G/s", per_second / 1e9); }

std::string size_text(uint64_t bytes) {
  if (bytes == 0) return "";
  return bytes < 1 << 20 ? bench::text(" (%.0f KiB)", static_cast<double>(bytes) / 1024)
                         : bench::text(" (%.0f MiB)", static_cast<double>(bytes) / (1 << 20));
}

std::string peaks_text(const bench::Peaks& peaks) {
  std::string text =
      concat("products of ", peaks.threads, peaks.threads == 1 ? " thread" : " threads", ": fp32 ",
             rate_text(peaks.fp32_macs_per_second), " by ", peaks.fp32_by, ", bf16 ",
             rate_text(peaks.bf16_macs_per_second), " by ", peaks.bf16_by, "\nbytes:");
  const char* comma = " ";
  for (const bench::MemoryLevel& level : peaks.levels) {
    text +=
        concat(comma, level.name, size_text(level.bytes), " ", rate_text(level.bytes_per_second));
    comma = ", ";
  }
  return text;
}

Json floor_json(const bench::Work& work, const bench::Floor& floor, double seconds) {
  return {{"fp32_macs", work.fp32_macs},
          {"bf16_macs", work.bf16_macs},
          {"bytes", work.bytes},
          {"working_set_bytes", work.working_set},
          {"level", floor.level},
          {"arithmetic_floor_seconds", floor.arithmetic_seconds},
          {"memory_floor_seconds", floor.memory_seconds},
          {"floor_seconds", floor.seconds()},
          {"distance", floor.seconds() > 0 ? Json(seconds / floor.seconds()) : Json(nullptr)}};
}

// "  42.1 us mul  3.10x": the floor, what decides it, and our distance.
std::string floor_text(const bench::Floor& floor, double seconds) {
  if (floor.seconds() <= 0) return bench::text("%10s %4s %7s", "-", "", "");
  return bench::text("%8.1fus %4s %6.2fx", 1e6 * floor.seconds(),
                     floor.by_memory() ? floor.level.substr(0, 3).c_str() : "mul",
                     seconds / floor.seconds());
}

// One precision of a case: the step as it is used, and taken apart.
struct Measured {
  std::vector<double> seconds;
  std::optional<Ours> whole;
  std::optional<bench::LayerTimes> parts;

  Measured(const Case& c, const data::Dataset& set, const std::string& precision) {
    try {
      whole.emplace(c, precision);
      parts.emplace(graph_of(c), precision == "bf16" ? Type::kBf16 : Type::kFloat, set, c.batch);
      parts->step();
    } catch (const Error&) {
      // A processor, or a net, without it.
      if (precision == "fp32") throw;
      whole.reset();
      parts.reset();
    }
  }
  bool there() const { return whole.has_value(); }
  double median() const { return there() ? bench::median(seconds) : 0; }
};

struct Settings {
  bool json = false, layers = false, libtorch = true, check = false;
  int64_t rounds = 5;
  double seconds = kMinSeconds;
  std::string only, program;
};

class Bench {
 public:
  Bench(const Settings& settings, const bench::Peaks& peaks)
      : settings_(settings), peaks_(peaks), table_(settings.json, header()) {}

  void run(size_t index) {
    const Case& one = cases()[index];
    const data::Dataset set =
        is_text(one) ? noise_tokens(one) : bench::noise_images(one.shape, 600);
    Measured fp32(one, set, "fp32"), bf16(one, set, "bf16");
    std::vector<double> theirs;
    for (int64_t r = 0; r < settings_.rounds; ++r) {
      if (settings_.libtorch) {
        theirs.push_back(
            bench::numbers_of_run(settings_.program, concat("--baseline ", index), 1).front());
      }
      for (Measured* ours : {&fp32, &bf16})
        if (ours->there()) ours->seconds.push_back(ours->whole->seconds(settings_.seconds));
    }
    const double base = theirs.empty() ? 0 : bench::median(theirs);
    Json row = {{"model", one.model}, {"batch", one.batch}};
    row["peaks"] = to_json(peaks_);
    row["libtorch_seconds"] = theirs.empty() ? Json(nullptr) : Json(base);
    std::string line =
        bench::text("%-14s %5d | %10s", one.model.c_str(), static_cast<int>(one.batch),
                    base > 0 ? bench::text("%8.1fus", 1e6 * base).c_str() : "-");
    for (const auto& [name, ours] : {std::pair("fp32", &fp32), std::pair("bf16", &bf16)}) {
      const double seconds = ours->median();
      row[concat(name, "_seconds")] = seconds;
      if (!ours->there()) continue;
      const bench::Work work = ours->parts->work();
      const bench::Floor floor = floor_of(work, peaks_);
      row[concat(name, "_floor")] = floor_json(work, floor, seconds);
      check(concat(one.model, ", batch ", one.batch, ", ", name), floor, seconds);
      const std::string ratio = base > 0 ? bench::text("%5.2fx", base / seconds) : "-";
      line += bench::text(" | %8.1fus %6s %s", 1e6 * seconds, ratio.c_str(),
                          floor_text(floor, seconds).c_str());
    }
    table_.row(row, line);
    if (!settings_.layers) return;
    for (const auto& [name, ours] : {std::pair("fp32", &fp32), std::pair("bf16", &bf16)})
      if (ours->there()) layers(one, name, *ours->parts);
  }

  // Whether all floors are what they say.
  bool finish() {
    table_.finish();
    for (const std::string& fault : faults_) std::fprintf(stderr, "%s\n", fault.c_str());
    return faults_.empty();
  }

 private:
  // Others use the machine, also while its peak is measured, and clocks change.
  static constexpr double kNoise = 0.75;

  static std::string header() {
    return bench::text("%-14s %5s | %10s | %10s %6s %10s %4s %7s | %10s %6s %10s %4s %7s", "model",
                       "batch", "libtorch", "fp32", "ratio", "floor", "by", "distance", "bf16",
                       "ratio", "floor", "by", "distance");
  }

  void check(const std::string& what, const bench::Floor& floor, double seconds) {
    if (floor.arithmetic_seconds <= 0 || floor.memory_seconds <= 0)
      faults_.push_back(concat(what, ": a floor of nothing"));
    if (seconds < kNoise * floor.arithmetic_seconds) {
      faults_.push_back(concat(what, ": ", seconds, " s is less than its products take at best, ",
                               floor.arithmetic_seconds, " s"));
    }
  }

  void layers(const Case& c, const char* precision, bench::LayerTimes& times) {
    const Stopwatch watch;
    for (int i = 0; i < 3 || (watch.seconds() < settings_.seconds && i < 5000); ++i) times.step();
    double sum = 0, floors = 0;
    const auto add = [&](const std::string& layer, const std::string& part, double seconds,
                         const bench::Work& work) {
      const bench::Floor floor = floor_of(work, peaks_);
      floors += floor.seconds();
      Json row = {{"model", c.model}, {"batch", c.batch}, {"precision", precision}};
      row.update({{"layer", layer}, {"part", part}, {"seconds", seconds}});
      row.update(floor_json(work, floor, seconds));
      table_.row(row, bench::text("  %-4s %-34s %-17s %8.1fus %s", precision, layer.c_str(),
                                  part.c_str(), 1e6 * seconds, floor_text(floor, seconds).c_str()));
    };
    for (const auto& row : times.rows()) {
      sum += row.seconds;
      add(row.layer, part_name(row.part), row.seconds, row.work);
      if (row.work.fp32_macs + row.work.bf16_macs > 0)
        check(concat(c.model, ", batch ", c.batch, ", ", precision, ", ", row.layer, ", ",
                     part_name(row.part)),
              floor_of(row.work, peaks_), row.seconds);
    }
    add("-", "gather", times.gather_seconds(), {});
    add("-", "loss", times.loss_seconds(), {});
    const double seconds = times.step_seconds();
    table_.row(
        {{"model", c.model},
         {"batch", c.batch},
         {"precision", precision},
         {"layer", "all"},
         {"part", "step"},
         {"seconds", seconds},
         {"parts_seconds", sum},
         {"parts_floor_seconds", floors}},
        bench::text("  %-4s %-34s %-17s %8.1fus %8.1fus the parts' floors, %.2fx", precision, "all",
                    "step, taken apart", 1e6 * seconds, 1e6 * floors, seconds / floors));
  }

  const Settings& settings_;
  const bench::Peaks& peaks_;
  bench::Table table_;
  std::vector<std::string> faults_;
};

}  // namespace
}  // namespace espalier::models

int main(int argc, char** argv) {
  using namespace espalier;
  using namespace espalier::models;
  bench::Arguments arguments(argc, argv);
  Settings settings;
  settings.program = arguments.program();
  settings.json = arguments.flag("--json");
  settings.layers = arguments.flag("--layers");
  settings.libtorch = !arguments.flag("--no-libtorch");
  settings.check = arguments.flag("--check");
  settings.rounds = arguments.number("--rounds", 5);
  settings.only = arguments.text("--only");
  settings.seconds = std::stod(arguments.text("--seconds", concat(kMinSeconds)));
  const bool peaks_alone = arguments.flag("--peaks");
  bench::PeakOptions measuring;
  measuring.threads = static_cast<size_t>(arguments.number("--threads", 1));
  const std::string baseline = arguments.text("--baseline");
  arguments.finish(
      "step_bench [--json] [--rounds N] [--only MODEL] [--layers] [--no-libtorch] [--seconds S] "
      "[--check] | --peaks [--json] [--threads N]");
  if (!baseline.empty()) {
    at::set_num_threads(1);
    one_blas_thread();
    std::printf("%.9f\n", baseline_seconds(cases().at(std::stoul(baseline))));
    return 0;
  }
  configure_process();
  if (settings.check) {
    settings.layers = true;
    settings.libtorch = false;
    settings.rounds = 3;
    settings.seconds = 0.05;
    measuring.tries = 10;
    measuring.most_bytes = 64 << 20;
  }
  if (!peaks_alone) measuring.threads = 1;
  const bench::Peaks peaks = bench::measure_peaks(measuring);
  if (peaks_alone) {
    std::printf("%s\n", settings.json ? to_json(peaks).dump().c_str() : peaks_text(peaks).c_str());
    return 0;
  }
  std::fprintf(settings.json ? stderr : stdout, "%s\n", peaks_text(peaks).c_str());
  Bench table(settings, peaks);
  for (size_t c = 0; c < cases().size(); ++c) {
    const Case& one = cases()[c];
    if (!settings.only.empty() && one.model != settings.only) continue;
    if (settings.check && one.model != "mlp" && one.model != "cnn") continue;
    table.run(c);
  }
  return table.finish() ? 0 : 1;
}
