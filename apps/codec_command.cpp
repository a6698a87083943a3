#include "apps/codec_command.h"

#include <cstdio>
#include <memory>

#include "apps/codec_streams.h"
#include "apps/tensor_files.h"
#include "espalier/base/error.h"
#include "espalier/codec/evaluate.h"
#include "espalier/codec/pipeline.h"

namespace espalier::apps {

namespace {

struct EvalArguments {
  std::string stages = "hadamard,quantize:bits=4";
  std::string dist = "lognormal";
  std::string input;
  uint64_t dim = 8192;
  uint64_t trials = 100;
  uint64_t seed = 1;
  bool json = false;
};

struct BenchArguments {
  std::vector<std::string> stages;
  uint64_t elements = uint64_t{1} << 24;
  uint64_t threads = 1;
  double seconds = 0.3;
  bool json = false;
};

constexpr uint64_t kMaxElements = uint64_t{1} << 30;

// What `codec bench` measures when no stages are given.
const std::vector<std::string>& default_benches() {
  static const std::vector<std::string> list = {
      "identity",
      "cast",
      "quantize:bits=8",
      "hadamard,quantize:bits=4",
      "hadamard,subsample:keep=0.5,quantize:bits=4",
      "kashin,quantize:bits=2",
      "hadamard:rotations=2,eden:bits=2",
      "hadamard,dithered:bits=2",
      "hadamard,trellis:bits=3",
      "topk:keep=0.01",
  };
  return list;
}

// The tensors of a safetensors file, or one tensor of little-endian float32 values.
ParameterSet read_input(const std::string& file) {
  return file.ends_with(".safetensors") ? read_tensors(file, "codec/eval", Integers::kConvert)
                                        : read_raw(file, "codec/eval", {});
}

void check_elements(uint64_t count, const char* flag) {
  if (count < 1 || count > kMaxElements)
    fail("codec", "expected ", flag, " from 1 to 2^30, got ", count);
}

void run_eval(const EvalArguments& arguments) {
  if (arguments.trials < 1)
    fail("codec/eval", "expected --trials of at least 1, got ", arguments.trials);
  if (arguments.input.empty()) check_elements(arguments.dim, "--dim");
  const Key key(arguments.seed);
  const ParameterSet x = arguments.input.empty()
                             ? codec::make_example(arguments.dist, arguments.dim, key.child(0))
                             : read_input(arguments.input);
  const auto codec = make_stream_codec(arguments.stages, {}, x.layout());
  const codec::Evaluation result = codec::evaluate(*codec, x, arguments.trials, key.child(1));
  const double ratio =
      4 * static_cast<double>(x.size()) / static_cast<double>(result.encoded_bytes);
  if (arguments.json) {
    const Json out = {{"stages", arguments.stages},
                      {"input", arguments.input.empty() ? arguments.dist : arguments.input},
                      {"dim", x.size()},
                      {"trials", arguments.trials},
                      {"vnmse", result.vnmse},
                      {"bias2", result.bias2},
                      {"bits_per_coordinate", result.bits_per_coordinate},
                      {"encoded_bytes", result.encoded_bytes},
                      {"ratio", ratio},
                      {"unbiased", codec->unbiased()}};
    std::printf("%s\n", out.dump().c_str());
    return;
  }
  std::printf("stages               %s\n", arguments.stages.c_str());
  std::printf("values, trials       %zu, %llu\n", x.size(),
              static_cast<unsigned long long>(arguments.trials));
  std::printf("vNMSE                %.5g\n", result.vnmse);
  std::printf("squared bias         %.3g (%s; noise of this many trials: %.3g)\n", result.bias2,
              codec->unbiased() ? "declared unbiased" : "declared biased",
              result.vnmse / static_cast<double>(arguments.trials));
  std::printf("bits per coordinate  %.4f\n", result.bits_per_coordinate);
  std::printf("encoded bytes        %llu (%.2f times smaller than float32)\n",
              static_cast<unsigned long long>(result.encoded_bytes), ratio);
}

void run_bench(const BenchArguments& arguments) {
  check_elements(arguments.elements, "--elements");
  if (arguments.threads < 1 || arguments.threads > 1024)
    fail("codec/bench", "expected --threads from 1 to 1024, got ", arguments.threads);
  const auto& list = arguments.stages.empty() ? default_benches() : arguments.stages;
  std::vector<std::unique_ptr<codec::Codec>> codecs;
  for (const std::string& stages : list) codecs.push_back(codec::make_codec_for_example(stages));
  const ParameterSet x = codec::make_example("normal", arguments.elements, Key(1));
  const ParameterSet sample =
      codec::make_example("normal", std::min<uint64_t>(arguments.elements, 1 << 18), Key(2));
  Json rows = Json::array();
  if (!arguments.json) {
    std::printf("%-48s %7s %7s %10s %8s %8s %8s %8s\n", "stages", "bits", "ratio", "vNMSE",
                "enc Ge/s", "dec Ge/s", "enc GB/s", "dec GB/s");
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const codec::MemorySpeed memory = codec::measure_memory(arguments.elements);
    const codec::Speed speed =
        codec::measure_speed(*codecs[i], x, arguments.threads, arguments.seconds);
    const double vnmse = codec::evaluate(*codecs[i], sample, 3, Key(3)).vnmse;
    const auto count = static_cast<double>(arguments.elements);
    const double total = count * static_cast<double>(arguments.threads) * 1e-9;
    const double encode = total / speed.encode_seconds, decode = total / speed.decode_seconds;
    const double bits = 8 * static_cast<double>(speed.encoded_bytes) / count;
    rows.push_back({{"stages", list[i]},
                    {"elements", arguments.elements},
                    {"threads", arguments.threads},
                    {"bits_per_coordinate", bits},
                    {"ratio", 32 / bits},
                    {"vnmse", vnmse},
                    {"encode_gelements_per_second", encode},
                    {"decode_gelements_per_second", decode},
                    {"encode_gbytes_per_second", 4 * encode},
                    {"decode_gbytes_per_second", 4 * decode},
                    {"memcpy_gbytes_per_second", memory.memcpy_bytes_per_second * 1e-9},
                    {"modify_gelements_per_second", memory.modify_values_per_second * 1e-9}});
    if (!arguments.json) {
      std::printf("%-48s %7.3f %7.2f %10.3g %8.3f %8.3f %8.2f %8.2f\n", list[i].c_str(), bits,
                  32 / bits, vnmse, encode, decode, 4 * encode, 4 * decode);
      std::fflush(stdout);
      if (i + 1 == list.size()) {
        std::printf("threads %llu; one thread: memcpy %.2f GB/s, in-place pass %.2f Ge/s\n",
                    static_cast<unsigned long long>(arguments.threads),
                    memory.memcpy_bytes_per_second * 1e-9, memory.modify_values_per_second * 1e-9);
      }
    }
  }
  if (arguments.json) std::printf("%s\n", rows.dump().c_str());
}

}  // namespace

void add_codec_command(CLI::App& app) {
  CLI::App* codec = app.add_subcommand(
      "codec", "Measure what compression costs and saves; encode and decode files.");
  codec->require_subcommand(1);
  codec->footer(
      "Example:\n  espalier codec eval --stages \"hadamard,quantize:bits=4\" --dim 8192\n  "
      "espalier codec bench\n  espalier codec encode --in model.safetensors --out model.espc "
      "--stages hadamard,trellis:bits=4\n  espalier codec decode --in model.espc --out "
      "again.safetensors --like model.safetensors");

  const std::string stages_help =
      "Stages in order, name:option=value:…, separated by commas; `espalier list codecs` shows the "
      "names.";
  auto evaluating = std::make_shared<EvalArguments>();
  CLI::App* eval =
      codec->add_subcommand("eval", "Error, bias and size of a codec on one vector or model.");
  eval->footer(
      "Example:\n  espalier codec eval --stages \"hadamard:rotations=2,eden:bits=2\" --dist "
      "two-hot --dim 1024 --trials 2000");
  eval->add_option("--stages", evaluating->stages, stages_help)->capture_default_str();
  eval->add_option("--dist", evaluating->dist,
                   "Input: lognormal, normal, spiky, two-hot or geometric.")
      ->capture_default_str();
  eval->add_option("--dim", evaluating->dim, "Number of values of the input.")
      ->capture_default_str();
  eval->add_option("--input", evaluating->input,
                   "Instead: a safetensors file, or a file of raw float32 values.");
  eval->add_option("--trials", evaluating->trials,
                   "Times the input is coded, each with another key.")
      ->capture_default_str();
  eval->add_option("--seed", evaluating->seed, "Seed of the input and the keys.")
      ->capture_default_str();
  eval->add_flag("--json", evaluating->json, "Print one JSON object and nothing else.");
  eval->callback([evaluating] { run_eval(*evaluating); });

  auto measuring = std::make_shared<BenchArguments>();
  CLI::App* bench =
      codec->add_subcommand("bench", "Speed of codecs beside that of memory, in one run.");
  bench->footer(
      "Example:\n  espalier codec bench --stages \"hadamard,quantize:bits=4\" --elements 1000000 "
      "--json");
  bench
      ->add_option("--stages", measuring->stages,
                   stages_help + " May be given several times; default: a selection.")
      ->take_all()
      ->allow_extra_args(false);
  bench->add_option("--elements", measuring->elements, "Values per message.")
      ->capture_default_str();
  bench->add_option("--threads", measuring->threads, "Threads, each coding its own message.")
      ->capture_default_str();
  bench->add_option("--seconds", measuring->seconds, "Time spent on each direction of each codec.")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  bench->add_flag("--json", measuring->json, "Print one JSON array and nothing else.");
  bench->callback([measuring] { run_bench(*measuring); });

  add_codec_stream_commands(*codec, stages_help);
}

}  // namespace espalier::apps
