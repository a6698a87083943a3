// What gates cost in training: steps of the same model with and without gates, in turns in one
// process; the median of the ratios of neighbouring turns.
//
//   gate_training_bench [--rounds N] [--only MODEL] [--bf16]
#include <algorithm>
#include <cstdio>

#include "bench/harness.h"
#include "bench/noise_images.h"
#include "espalier/base/clock.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/process.h"
#include "espalier/train/trainer.h"

namespace espalier::models {
namespace {

struct Case {
  std::string model;
  std::vector<int64_t> shape;
  int64_t batch;
  double width = 1;
};

class Replica {
 public:
  Replica(const Case& c, const std::string& gates, double ratio, const std::string& precision)
      : set_(bench::noise_images(c.shape, 512)) {
    for (uint32_t i = 0; i < 512; ++i) samples_.push_back(i);
    ModelOptions model;
    model.name = c.model;
    model.width = c.width;
    model.gates = gates;
    if (gates != "none") {
      model.gate_ratio = ratio;
      model.gate_sigmoid = true;  // without it deep nets soon have no finite loss
    }
    trainer_ = make_trainer(model, spec_of(set_), {precision, "cpu"});
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
  StepOptions options_;
};

int run(int argc, char** argv) {
  bench::Arguments arguments(argc, argv);
  const int64_t rounds = arguments.number("--rounds", 7);
  const std::string only = arguments.text("--only");
  const std::string precision = arguments.flag("--bf16") ? "bf16" : "fp32";
  arguments.finish("gate_training_bench [--rounds N] [--only MODEL] [--bf16]");
  configure_process();
  configure_thread();
  std::printf("%-10s %5s %5s %5s %6s %9s %9s %7s  (%s)\n", "model", "width", "batch", "gates",
              "ratio", "dense ms", "gated ms", "ratio", precision.c_str());
  for (const Case& c : {Case{"cnn", {1, 28, 28}, 32}, Case{"cnn", {1, 28, 28}, 64},
                        Case{"resnet20", {3, 32, 32}, 32}, Case{"resnet20", {3, 32, 32}, 64},
                        Case{"vgg11", {3, 32, 32}, 32}, Case{"vgg11", {3, 32, 32}, 64},
                        Case{"resnet32", {3, 32, 32}, 64, 0.5}}) {
    if (!only.empty() && only != c.model) continue;
    Replica dense(c, "none", 1, precision);
    const auto count = std::max<int64_t>(1, static_cast<int64_t>(0.1 / dense.step(1)));
    for (const std::string gates : {"gated", "fbs"}) {
      for (const double ratio : {0.5, 0.7}) {
        Replica gated(c, gates, ratio, precision);
        std::vector<double> plain, with, ratios;
        for (int64_t round = 0; round < rounds; ++round) {
          plain.push_back(dense.step(count));
          with.push_back(gated.step(count));
          ratios.push_back(with.back() / plain.back());
        }
        std::printf("%-10s %5.2f %5ld %5s %6.2f %9.2f %9.2f %7.3f\n", c.model.c_str(), c.width,
                    static_cast<long>(c.batch), gates.c_str(), ratio, 1e3 * bench::median(plain),
                    1e3 * bench::median(with), bench::median(ratios));
        std::fflush(stdout);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace espalier::models

int main(int argc, char** argv) { return espalier::models::run(argc, argv); }
