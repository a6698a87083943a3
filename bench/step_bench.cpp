// Training steps of our Trainer against libtorch's default behaviour: contiguous tensors, default
// heap, autograd, torch::optim::SGD; BLAS held to one thread in both. The baseline runs in a child
// process of this program, so that our heap settings do not help it; the two are run in turns and
// medians compared.
//
//   step_bench [--json] [--rounds N] [--only NAME]
#include <dlfcn.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "bench/harness.h"
#include "bench/noise_images.h"
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
  static const std::vector<Case> all = {
      {"mlp", {1, 28, 28}, 10},          {"cnn", {1, 28, 28}, 10},
      {"cnn-cifar", {3, 32, 32}, 10},    {"resnet8", {3, 32, 32}, 16},
      {"resnet8", {3, 32, 32}, 64},      {"resnet20", {3, 32, 32}, 16},
      {"resnet20", {3, 32, 32}, 64},     {"resnet8-client", {3, 32, 32}, 64},
      {"resnet56-gkt", {3, 32, 32}, 64}, {"lstm", {80}, 10}};  // sequences of 80 tokens
  return all;
}

constexpr double kMinSeconds = 0.3;
constexpr int64_t kVocabulary = 86;

bool is_text(const Case& c) { return c.shape.size() == 1; }

Graph graph_of(const Case& c) {
  ModelOptions options;
  options.name = c.model;
  DataSpec data;
  data.sample_shape = c.shape;
  data.num_classes = 10;
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
  double seconds() {
    const Stopwatch watch;
    int64_t steps = 0;
    while (steps < 3 || watch.seconds() < kMinSeconds) steps += run(steps_per_fit());
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

}  // namespace
}  // namespace espalier::models

int main(int argc, char** argv) {
  using namespace espalier;
  using namespace espalier::models;
  bench::Arguments arguments(argc, argv);
  const bool json = arguments.flag("--json");
  const int64_t rounds = arguments.number("--rounds", 5);
  const std::string only = arguments.text("--only"), baseline = arguments.text("--baseline");
  arguments.finish("step_bench [--json] [--rounds N] [--only MODEL]");
  if (!baseline.empty()) {
    at::set_num_threads(1);
    one_blas_thread();
    std::printf("%.9f\n", baseline_seconds(cases().at(std::stoul(baseline))));
    return 0;
  }
  configure_process();
  bench::Table table(json, bench::text("%-14s %5s | %10s | %10s %6s | %10s %6s", "model", "batch",
                                       "libtorch", "fp32", "ratio", "bf16", "ratio"));
  for (size_t c = 0; c < cases().size(); ++c) {
    const Case& one = cases()[c];
    if (!only.empty() && one.model != only) continue;
    Ours fp32(one, "fp32");
    std::optional<Ours> bf16;
    try {
      bf16.emplace(one, "bf16");
    } catch (const Error&) {
      // a processor without it
    }
    std::vector<double> theirs, ours, rough;
    for (int64_t r = 0; r < rounds; ++r) {
      theirs.push_back(
          bench::numbers_of_run(arguments.program(), concat("--baseline ", c), 1).front());
      ours.push_back(fp32.seconds());
      rough.push_back(bf16 ? bf16->seconds() : 0);
    }
    const double base = bench::median(theirs), single = bench::median(ours),
                 half = bench::median(rough);
    table.row({{"model", one.model},
               {"batch", one.batch},
               {"libtorch_seconds", base},
               {"fp32_seconds", single},
               {"bf16_seconds", half}},
              bench::text("%-14s %5d | %8.1f us | %8.1f us %5.2fx | %8.1f us %5.2fx",
                          one.model.c_str(), static_cast<int>(one.batch), 1e6 * base, 1e6 * single,
                          base / single, 1e6 * half, half > 0 ? base / half : 0));
  }
  table.finish();
  return 0;
}
