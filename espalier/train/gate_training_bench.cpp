// What gates cost in training: steps of the same model with and without gates, in turns in one
// process; the median of the ratios of neighbouring turns.
//
//   gate_training_bench [--rounds N] [--only MODEL] [--bf16]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "espalier/base/clock.h"
#include "espalier/train/trainer.h"

namespace espalier::train {
namespace {

struct Case {
  std::string model;
  std::vector<int64_t> shape;
  int64_t batch;
};

class Replica {
 public:
  Replica(const Case& c, const std::string& gates, double ratio, const std::string& precision) {
    set_.name = "bench";
    set_.sample_shape = c.shape;
    set_.num_classes = 10;
    set_.mean.assign(static_cast<size_t>(c.shape[0]), 0.5f);
    set_.stddev.assign(static_cast<size_t>(c.shape[0]), 0.25f);
    Stream stream(Key(1));
    set_.pixels.resize(512 * set_.sample_size());
    for (uint8_t& pixel : set_.pixels) pixel = static_cast<uint8_t>(stream.u32());
    for (int i = 0; i < 512; ++i) set_.labels.push_back(static_cast<int32_t>(stream.below(10)));
    set_.validate();
    for (uint32_t i = 0; i < 512; ++i) samples_.push_back(i);
    ModelOptions model;
    model.name = c.model;
    model.gates = gates;
    if (gates != "none") model.gate_ratio = ratio;
    trainer_ = make_trainer(model, spec_of(set_), precision, "cpu");
    ParameterSet weights(trainer_->layout());
    trainer_->initialize(Key(2), weights);
    trainer_->load(weights);
    options_.batch_size = c.batch;
    options_.lr = 1e-9;  // labels are noise: the nets must stay as they are
    options_.epochs = 1000;
    step(2);
  }

  double step(int64_t count) {
    options_.max_steps = count;
    const double start = thread_cpu_seconds();
    trainer_->fit(set_, samples_, options_, {}, Key(3));
    return (thread_cpu_seconds() - start) / static_cast<double>(count);
  }

 private:
  data::Dataset set_;
  std::vector<uint32_t> samples_;
  std::unique_ptr<Trainer> trainer_;
  TrainOptions options_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int run(int argc, char** argv) {
  int rounds = 7;
  std::string only, precision = "fp32";
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--bf16") == 0) precision = "bf16";
    if (i + 1 == argc) continue;
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--only") == 0) only = argv[i + 1];
  }
  configure_process();
  configure_thread();
  std::printf("%-10s %5s %5s %6s %9s %9s %7s  (%s)\n", "model", "batch", "gates", "ratio",
              "dense ms", "gated ms", "ratio", precision.c_str());
  for (const Case& c : {Case{"cnn", {1, 28, 28}, 32}, Case{"cnn", {1, 28, 28}, 64},
                        Case{"resnet20", {3, 32, 32}, 32}, Case{"resnet20", {3, 32, 32}, 64},
                        Case{"vgg11", {3, 32, 32}, 32}, Case{"vgg11", {3, 32, 32}, 64}}) {
    if (!only.empty() && only != c.model) continue;
    Replica dense(c, "none", 1, precision);
    const auto count = std::max<int64_t>(1, static_cast<int64_t>(0.1 / dense.step(1)));
    for (const std::string gates : {"gated", "fbs"}) {
      for (const double ratio : {0.5, 0.7}) {
        Replica gated(c, gates, ratio, precision);
        std::vector<double> plain, with, ratios;
        for (int round = 0; round < rounds; ++round) {
          plain.push_back(dense.step(count));
          with.push_back(gated.step(count));
          ratios.push_back(with.back() / plain.back());
        }
        std::printf("%-10s %5ld %5s %6.2f %9.2f %9.2f %7.3f\n", c.model.c_str(),
                    static_cast<long>(c.batch), gates.c_str(), ratio, 1e3 * median(plain),
                    1e3 * median(with), median(ratios));
        std::fflush(stdout);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace espalier::train

int main(int argc, char** argv) { return espalier::train::run(argc, argv); }
