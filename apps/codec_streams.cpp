#include "apps/codec_streams.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "apps/tensor_files.h"
#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/codec/message.h"
#include "espalier/codec/pipeline.h"
#include "espalier/params/safetensors.h"

namespace espalier::apps {

namespace {

constexpr uint64_t kMaxValues = uint64_t{1} << 30;  // 4 GiB of float32
constexpr const char* kEncode = "codec/encode";
constexpr const char* kDecode = "codec/decode";

struct EncodeArguments {
  std::string in, out;
  std::string stages = "hadamard,quantize:bits=4";
  std::vector<std::string> rules;
  std::vector<int64_t> shape;
  uint64_t key = 1;
  bool raw = false, skip_integers = false, json = false;
};

struct DecodeArguments {
  std::string in, out, like;
  bool raw = false, json = false;
};

// Stage tables of one pipeline, for what one of the patterns matches.
void add_tables(const std::string& stages, const Json& patterns, Json& tables) {
  Json added = codec::parse_stages(stages);
  // The identity has to stand somewhere for its patterns to be seen.
  if (added.empty()) {
    Json identity = Json::object();
    identity["stage"] = "identity";
    added.push_back(std::move(identity));
  }
  for (Json& table : added) {
    if (!patterns.empty()) table["for"] = patterns;
    tables.push_back(std::move(table));
  }
}

void refuse_same_file(const std::string& read, const std::string& out, const char* where) {
  std::error_code none;
  if (std::filesystem::equivalent(read, out, none))
    fail(where, "expected another file for --out than the one that is read, got ", out);
}

struct Loss {
  double vnmse = 0, largest = 0;
};
Loss loss_of(const ParameterSet& x, const ParameterSet& decoded) {
  Loss loss;
  double energy = 0, square = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = x.values()[i], error = double{decoded.values()[i]} - value;
    energy += value * value;
    square += error * error;
    loss.largest = std::max(loss.largest, std::abs(error));
  }
  if (energy > 0) loss.vnmse = square / energy;
  return loss;
}

void run_encode(const EncodeArguments& arguments) {
  if (!arguments.raw && !arguments.shape.empty())
    fail(kEncode, "--shape is for --raw; a safetensors file has shapes of its own");
  refuse_same_file(arguments.in, arguments.out, kEncode);
  const ParameterSet x =
      arguments.raw ? read_raw(arguments.in, kEncode, arguments.shape)
                    : read_tensors(arguments.in, kEncode,
                                   arguments.skip_integers ? Integers::kSkip : Integers::kRefuse);
  if (x.size() > kMaxValues)
    fail(kEncode, "expected at most 2^30 values, got ", x.size(), " (", arguments.in, ")");
  const auto codec = make_stream_codec(arguments.stages, arguments.rules, x.layout());
  codec::require_named_tensors(*codec, x.layout(), "--rule");
  Bytes message;
  codec->encode(x, Key(arguments.key), message);
  ParameterSet decoded(x.shared_layout());
  codec->decode(message, decoded);
  write_file_atomic(arguments.out, message);

  const Loss loss = loss_of(x, decoded);
  const size_t tensors = x.layout().tensors().size();
  const double ratio = 4 * static_cast<double>(x.size()) / static_cast<double>(message.size());
  if (arguments.json) {
    const Json out = {{"stages", codec->describe()},
                      {"key", arguments.key},
                      {"tensors", tensors},
                      {"values", x.size()},
                      {"encoded_bytes", message.size()},
                      {"ratio", ratio},
                      {"vnmse", loss.vnmse},
                      {"largest_error", loss.largest}};
    std::printf("%s\n", out.dump().c_str());
    return;
  }
  std::printf(
      "%zu tensors, %zu values in %zu bytes, %.2f times smaller than float32; vNMSE %.5g, largest "
      "error %.5g\n",
      tensors, x.size(), message.size(), ratio, loss.vnmse, loss.largest);
}

void run_decode(const DecodeArguments& arguments) {
  refuse_same_file(arguments.in, arguments.out, kDecode);
  if (!arguments.like.empty()) refuse_same_file(arguments.like, arguments.out, kDecode);
  const Bytes message = read_file(arguments.in);
  const codec::MessageHeader header = codec::read_header(message);
  const std::vector<codec::Pipeline> pipelines = codec::read_pipelines(header);
  std::shared_ptr<const ParameterLayout> layout;
  if (arguments.like.empty()) {
    layout = codec::nameless_layout(header, kMaxValues);
  } else {
    layout = read_tensors(arguments.like, kDecode, Integers::kSkip).shared_layout();
    try {
      codec::check_layout(header, *layout);
    } catch (const Error& error) {
      throw Error(
          concat(error.what(), "; ", arguments.like,
                 " is not what was encoded; without --like the tensors are called 0, 1, …"));
    }
  }
  ParameterSet decoded(layout);
  codec::decode_payloads(header, pipelines, decoded.layout(), decoded.values());
  if (arguments.raw) {
    Bytes values;
    ByteWriter(values).array(std::span<const float>(decoded.values()));
    write_file_atomic(arguments.out, values);
  } else {
    write_file_atomic(arguments.out, write_safetensors(decoded, {}));
  }

  std::vector<bool> used(pipelines.size());
  for (const codec::TensorHeader& tensor : header.tensors) used[tensor.pipeline] = true;
  std::vector<std::string> names;
  for (size_t p = 0; p < pipelines.size(); ++p) {
    if (used[p]) names.push_back(pipelines[p].describe());
  }
  if (arguments.json) {
    const Json out = {{"pipelines", names},
                      {"key", header.key.value()},
                      {"tensors", header.tensors.size()},
                      {"values", decoded.size()},
                      {"encoded_bytes", message.size()}};
    std::printf("%s\n", out.dump().c_str());
    return;
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : "; ") + name;
  std::printf("%zu tensors, %zu values from %zu bytes (%s)\n", header.tensors.size(),
              decoded.size(), message.size(), text.c_str());
}

}  // namespace

std::unique_ptr<codec::Codec> make_stream_codec(const std::string& stages,
                                                const std::vector<std::string>& rules,
                                                const ParameterLayout& layout) {
  Json tables = Json::array();
  for (const std::string& rule : rules) {
    const size_t equals = rule.find('=');
    if (equals == 0 || equals == std::string::npos)
      fail("codec", "expected --rule PATTERN=STAGES, as in first|last=quantize:bits=8, got '", rule,
           "'");
    Json patterns = Json::array();
    for (size_t begin = 0; begin <= equals;) {
      const size_t end = std::min(rule.find('|', begin), equals);
      patterns.push_back(rule.substr(begin, end - begin));
      begin = end + 1;
    }
    add_tables(rule.substr(equals + 1), patterns, tables);
  }
  add_tables(stages, layout.tensors().size() == 1 ? Json::array({"*"}) : Json::array(), tables);
  return codec::make_codec(tables, "stages");
}

void add_codec_stream_commands(CLI::App& codec, const std::string& stages_help) {
  auto encoding = std::make_shared<EncodeArguments>();
  CLI::App* encode = codec.add_subcommand(
      "encode", "Write tensors as one encoded message (docs/format.md), and say what it costs.");
  encode->footer(
      "Of a file of several tensors the weights (two dimensions or more) of at least 512 values "
      "are "
      "coded by --stages;\nall else stays float32 unless a --rule says otherwise. A single tensor "
      "is always coded.\n\n"
      "Examples:\n  espalier codec encode --in model.safetensors --out model.espc --stages "
      "hadamard,trellis:bits=4\n  espalier codec encode --in model.safetensors --out model.espc "
      "--rule \"first|last=cast\" --stages \"hadamard,quantize:bits=4\"\n  espalier codec encode "
      "--raw --shape 100,784 --in values.f32 --out values.espc --key 7");
  encode->add_option("--in", encoding->in, "A safetensors file; with --raw float32 values.")
      ->required();
  encode->add_option("--out", encoding->out, "The message to write.")->required();
  encode->add_option("--stages", encoding->stages, stages_help)->capture_default_str();
  encode
      ->add_option("--rule", encoding->rules,
                   "PATTERN=STAGES, other stages for some tensors: patterns between | are first, "
                   "last, a role (weight, bias) or a name with * for any characters. Repeatable; "
                   "the first that matches decides.")
      ->take_all()
      ->allow_extra_args(false);
  encode
      ->add_option("--key", encoding->key, "Seed of all that is random; it travels in the message.")
      ->capture_default_str();
  encode->add_flag("--raw", encoding->raw,
                   "The input is little-endian float32 values and nothing else.");
  encode->add_option("--shape", encoding->shape, "With --raw: dimensions; default: a vector.")
      ->delimiter(',');
  encode->add_flag("--skip-integers", encoding->skip_integers,
                   "Leave tensors of integers out; otherwise they are refused.");
  encode->add_flag("--json", encoding->json, "Print one JSON object and nothing else.");
  encode->callback([encoding] { run_encode(*encoding); });

  auto decoding = std::make_shared<DecodeArguments>();
  CLI::App* decode = codec.add_subcommand("decode", "Read an encoded message back into tensors.");
  decode->footer(
      "A message names its stages, its key and the tensors' shapes, but not their names.\n\n"
      "Examples:\n  espalier codec decode --in model.espc --out again.safetensors --like "
      "model.safetensors\n  espalier codec decode --raw --in values.espc --out again.f32");
  decode->add_option("--in", decoding->in, "The message.")->required();
  decode->add_option("--out", decoding->out, "The safetensors file to write.")->required();
  decode->add_option("--like", decoding->like,
                     "A safetensors file with the tensors' names, which must be those that were "
                     "encoded; default: they are called 0, 1, …");
  decode->add_flag("--raw", decoding->raw,
                   "Write little-endian float32 values and nothing else, tensor after tensor.");
  decode->add_flag("--json", decoding->json, "Print one JSON object and nothing else.");
  decode->callback([decoding] { run_decode(*decoding); });
}

}  // namespace espalier::apps
