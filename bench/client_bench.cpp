// What a sub-model saves a client: a task from bytes to bytes in a process of its own, which
// receives an encoded task, trains on 600 samples and encodes its update, for several fractions of
// units kept. Bytes are those of the messages, memory the process's peak above what it takes before
// the task arrives (data included), time that of a training step. The fractions are run in turns
// and medians compared.
//
//   client_bench [--json] [--rounds N] [--only MODEL]
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <map>

#include "bench/harness.h"
#include "bench/noise_images.h"
#include "espalier/base/clock.h"
#include "espalier/base/file.h"
#include "espalier/client/session.h"
#include "espalier/models/make_trainer.h"
#include "espalier/models/model_options.h"
#include "espalier/models/process.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/submodel/selection.h"
#include "espalier/train/trainer.h"

namespace espalier {
namespace {

struct Case {
  std::string model;
  std::vector<int64_t> shape;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {{"cnn", {1, 28, 28}},
                                        {"all-cnn", {3, 32, 32}},
                                        {"resnet20", {3, 32, 32}},
                                        {"vgg11", {3, 32, 32}}};
  return all;
}
constexpr double kKeeps[] = {1, 0.75, 0.5, 0.25};

models::ModelOptions model_of(const Case& c) {
  models::ModelOptions options;
  options.name = c.model;
  return options;
}

// A message as one file: sizes, then parts.
// --- the server's part: a task for a fraction of the units
void write_task(const Case& c, double keep, const std::filesystem::path& path) {
  const auto set = bench::noise_images(c.shape, 1);
  const auto trainer = models::make_trainer(model_of(c), train::spec_of(set), {});
  auto global = std::make_shared<ParameterSet>(trainer->layout());
  trainer->initialize(Key(2), *global);
  const auto submodel = submodel::choose_submodel(submodel::find_selection("federated-dropout"),
                                                  global->shared_layout(), keep, 1, Key(3));
  wire::Task task;
  task.round = 1;
  task.algorithm = "fedavg";
  task.train.lr = 0.01;
  if (!submodel->whole()) task.units = submodel->units();
  task.payloads.push_back(
      {wire::kModel, std::make_shared<ParameterSet>(submodel->extract(*global)), 1});
  const auto codec = codec::make_codec(Json::array(), "bench");
  write_file_atomic(path, wire::write_stream(wire::encode_task(task, Key(1), *codec, Key(2),
                                                               {submodel->layout(), 0}, nullptr)));
}

// --- the client's part
struct Measured {
  double step_seconds = 0, memory_bytes = 0, bytes_down = 0, bytes_up = 0, macs = 0;
};

Measured run_client(const Case& c, const std::filesystem::path& path) {
  models::configure_process();
  models::configure_thread();
  const data::Dataset set = bench::noise_images(c.shape, 600);
  std::vector<uint32_t> samples(set.size());
  for (size_t i = 0; i < samples.size(); ++i) samples[i] = static_cast<uint32_t>(i);
  const auto codec = codec::make_codec(Json::array(), "bench");
  // The description of the whole model (names and shapes), without its values.
  const auto full = models::model_layout(model_of(c), train::spec_of(set));
  const uint64_t before = peak_rss_bytes();
  Measured measured;
  const wire::EncodedMessage task = wire::read_stream(read_file(path));
  std::unique_ptr<train::Trainer> replica;
  const client::ClientEnvironment environment{.algorithms = strategy::client_algorithms(),
                                              .downlink = *codec,
                                              .uplink = *codec,
                                              .limits = {full, 1 << 30}};
  const auto update = client::run_client_task(
      task, environment,
      [&](std::span<const int64_t> units) -> train::Trainer& {
        replica = models::make_trainer(model_of(c), train::spec_of(set), {}, units);
        return *replica;
      },
      {set, samples});
  measured.memory_bytes = static_cast<double>(peak_rss_bytes() - before);
  measured.bytes_down = static_cast<double>(task.size_bytes());
  measured.bytes_up = static_cast<double>(update.size_bytes());
  measured.macs = static_cast<double>(replica->macs_per_sample());
  // Warm by now: the steps alone.
  train::StepOptions options;
  options.lr = 0.01;
  const Stopwatch watch;
  uint64_t steps = 0;
  do {
    steps += replica->fit(set, samples, options, {}, Key(5)).steps;
  } while (watch.seconds() < 0.3);
  measured.step_seconds = watch.seconds() / static_cast<double>(steps);
  return measured;
}

Measured run_child(const std::string& program, size_t index, const std::filesystem::path& task) {
  const auto numbers =
      bench::numbers_of_run(program, concat("--client ", index, " ", task.string()), 5);
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]};
}

void run(const std::string& program, int64_t rounds, const std::string& only, bool json) {
  const auto folder =
      std::filesystem::temp_directory_path() / concat("espalier-client-bench-", ::getpid());
  std::filesystem::create_directories(folder);
  bench::Table table(json, bench::text("%-9s %5s | %10s %6s | %9s %6s | %9s %6s | %9s %6s | %6s",
                                       "model", "keep", "step", "ratio", "memory", "ratio", "task",
                                       "ratio", "update", "ratio", "MACs"));
  for (size_t c = 0; c < cases().size(); ++c) {
    const Case& one = cases()[c];
    if (!only.empty() && one.model != only) continue;
    std::map<double, std::vector<Measured>> measured;
    for (const double keep : kKeeps) write_task(one, keep, folder / concat("task-", keep));
    for (int64_t r = 0; r < rounds; ++r) {
      for (const double keep : kKeeps)
        measured[keep].push_back(run_child(program, c, folder / concat("task-", keep)));
    }
    const auto middle = [&](double keep, double Measured::*member) {
      std::vector<double> values;
      for (const Measured& m : measured[keep]) values.push_back(m.*member);
      return bench::median(values);
    };
    for (const double keep : kKeeps) {
      const auto ratio = [&](double Measured::*member) {
        return middle(1, member) / middle(keep, member);
      };
      table.row(
          {{"model", one.model},
           {"keep", keep},
           {"step_seconds", middle(keep, &Measured::step_seconds)},
           {"memory_bytes", middle(keep, &Measured::memory_bytes)},
           {"task_bytes", middle(keep, &Measured::bytes_down)},
           {"update_bytes", middle(keep, &Measured::bytes_up)},
           {"macs_per_sample", middle(keep, &Measured::macs)}},
          bench::text("%-9s %5.2f | %7.0f us %5.2fx | %6.1f MB %5.2fx | %6.2f MB %5.2fx | %6.2f MB "
                      "%5.2fx | %5.2fx",
                      one.model.c_str(), keep, 1e6 * middle(keep, &Measured::step_seconds),
                      ratio(&Measured::step_seconds), middle(keep, &Measured::memory_bytes) / 1e6,
                      ratio(&Measured::memory_bytes), middle(keep, &Measured::bytes_down) / 1e6,
                      ratio(&Measured::bytes_down), middle(keep, &Measured::bytes_up) / 1e6,
                      ratio(&Measured::bytes_up), ratio(&Measured::macs)));
    }
  }
  std::filesystem::remove_all(folder);
  table.finish();
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) {
  using namespace espalier;
  bench::Arguments arguments(argc, argv);
  const bool json = arguments.flag("--json");
  const int64_t rounds = arguments.number("--rounds", 3);
  const std::string only = arguments.text("--only"), index = arguments.text("--client");
  const auto task = index.empty() ? std::vector<std::string>{} : arguments.positional();
  arguments.finish("client_bench [--json] [--rounds N] [--only MODEL]");
  if (!index.empty()) {
    const Measured m = run_client(cases().at(std::stoul(index)), task.at(0));
    std::printf("%.9f %.0f %.0f %.0f %.0f\n", m.step_seconds, m.memory_bytes, m.bytes_down,
                m.bytes_up, m.macs);
    return 0;
  }
  run(arguments.program(), rounds, only, json);
  return 0;
}
