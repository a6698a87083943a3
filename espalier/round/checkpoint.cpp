#include "espalier/round/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include "espalier/base/digest.h"
#include "espalier/base/error.h"
#include "espalier/params/safetensors_source.h"

namespace espalier::round {

namespace {

constexpr const char* kFormat = "espalier-checkpoint-1";
constexpr const char* kAdvice = "; start the run again in a new folder";
constexpr const char* kModelPrefix = "model/";
constexpr const char* kHeldPrefix = "held/";
constexpr const char* kEstimatePrefix = "estimate/";

using Metadata = std::map<std::string, std::string>;
using Tensors = std::vector<std::pair<std::string, TensorSource>>;

std::span<const uint8_t> bytes_of(const auto& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(values[0])};
}

// Every tensor of a set under a prefix, as float32 whatever its role, so that reading gives the
// same bits. The set outlives them.
void append(const std::string& prefix, const ParameterSet& set, Tensors& tensors) {
  for (const ParameterInfo& info : set.layout().tensors()) {
    TensorSource tensor{DType::kF32, info.shape, {}};
    tensor.data.append_view(bytes_of(set.values(info)));
    tensors.emplace_back(prefix + info.name, std::move(tensor));
  }
}

const TensorSource* find(const SafetensorsSource& file, const std::string& name) {
  const auto found = file.tensors.find(name);
  return found == file.tensors.end() ? nullptr : &found->second;
}

ParameterSet read_set(const SafetensorsSource& file, const std::string& prefix,
                      const std::shared_ptr<const ParameterLayout>& layout,
                      std::string_view where) {
  ParameterSet set(layout);
  for (const ParameterInfo& info : layout->tensors()) {
    const TensorSource* tensor = find(file, prefix + info.name);
    if (tensor == nullptr || tensor->dtype != DType::kF32 || tensor->shape != info.shape) {
      fail(where, "the checkpoint has no tensor '", prefix, info.name, "' of shape ",
           shape_text(info.shape), "; is this another model?");
    }
    SourceReader(tensor->data, where).array(set.values(info));
  }
  return set;
}

// Of metadata and contents, both by name; safetensors has no checksum of its own.
std::string checksum_text(const Metadata& metadata,
                          const std::map<std::string, TensorSource>& tensors) {
  std::string all;
  for (const auto& [key, value] : metadata) {
    if (key != "checksum") all += concat(key, "=", value, "\n");
  }
  for (const auto& [name, tensor] : tensors) all += concat(name, "=", tensor.data.checksum(), "\n");
  return std::to_string(checksum32({reinterpret_cast<const uint8_t*>(all.data()), all.size()}));
}

// A checkpoint's file, without holding it; the checkpoint outlives it.
ByteSource source_of(const Checkpoint& checkpoint) {
  Json ledger = Json::object();
  write_options(checkpoint.ledger, ledger);
  std::string estimates;  // the payloads' names, one per line
  Tensors tensors;
  append(kModelPrefix, checkpoint.global, tensors);
  for (const auto& [name, estimate] : checkpoint.estimates) {
    estimates += name + "\n";
    append(concat(kEstimatePrefix, name, "/"), estimate, tensors);
  }
  if (!checkpoint.downlink_state.empty()) append(kHeldPrefix, checkpoint.downlink_state, tensors);
  tensors.emplace_back("strategy", TensorSource{DType::kU8,
                                                {static_cast<int64_t>(checkpoint.strategy.size())},
                                                checkpoint.strategy});
  Bytes pairs;
  ByteWriter versions(pairs);
  for (const auto& [client, version] : checkpoint.state_versions) {
    versions.put(client);
    versions.put(uint64_t{version});
  }
  TensorSource state_versions{
      DType::kU64, {static_cast<int64_t>(checkpoint.state_versions.size()), 2}, {}};
  state_versions.data.append(std::move(pairs));
  tensors.emplace_back("state_versions", std::move(state_versions));

  Metadata metadata = {{"format", kFormat},
                       {"configuration", std::to_string(checkpoint.configuration)},
                       {"round", std::to_string(checkpoint.round)},
                       {"ledger", ledger.dump()},
                       {"estimates", estimates},
                       {"held", checkpoint.downlink_state.empty() ? "no" : "yes"}};
  metadata["checksum"] = checksum_text(metadata, {tensors.begin(), tensors.end()});
  return safetensors_source(tensors, metadata);
}

}  // namespace

uint64_t fingerprint(std::string_view text) {
  return digest64({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

Bytes encode_checkpoint(const Checkpoint& checkpoint) { return source_of(checkpoint).bytes(); }

namespace {

Checkpoint decode(const ByteSource& bytes, const std::shared_ptr<const ParameterLayout>& layout,
                  std::string_view where) {
  const SafetensorsSource file = parse_safetensors(bytes, where);
  const auto text = [&](const std::string& key) -> const std::string& {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end())
      fail(where, "the checkpoint is damaged: it has no '", key, "'", kAdvice);
    return found->second;
  };
  const auto number = [&](const std::string& key) {
    uint64_t value = 0;
    const std::string& digits = text(key);
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (status != std::errc() || end != digits.data() + digits.size())
      fail(where, "the checkpoint is damaged: '", key, "'", kAdvice);
    return value;
  };
  if (text("format") != kFormat) {
    fail(where, "expected a checkpoint of format ", kFormat, ", got ", text("format"),
         "; resume with the release that wrote it");
  }
  Checkpoint checkpoint;
  checkpoint.configuration = number("configuration");
  checkpoint.round = static_cast<uint32_t>(std::min<uint64_t>(number("round"), UINT32_MAX));
  const Json ledger = Json::parse(text("ledger"), nullptr, /*allow_exceptions=*/false);
  if (!ledger.is_object()) fail(where, "the ledger of the checkpoint is damaged", kAdvice);
  read_options({&ledger, "ledger"}, {}, checkpoint.ledger);
  checkpoint.global = read_set(file, kModelPrefix, layout, where);
  std::istringstream names(text("estimates"));
  for (std::string name; std::getline(names, name);) {
    checkpoint.estimates.insert_or_assign(
        name, read_set(file, concat(kEstimatePrefix, name, "/"), layout, where));
  }
  if (text("held") == "yes") checkpoint.downlink_state = read_set(file, kHeldPrefix, layout, where);
  const TensorSource* strategy = find(file, "strategy");
  const TensorSource* versions = find(file, "state_versions");
  if (strategy == nullptr || versions == nullptr || versions->dtype != DType::kU64)
    fail(where, "the checkpoint is damaged", kAdvice);
  checkpoint.strategy = strategy->data;
  const Bytes clients = versions->data.bytes();
  ByteReader pairs(clients, where);
  while (pairs.remaining() > 0) {
    const auto client = pairs.get<uint64_t>();
    checkpoint.state_versions[client] = static_cast<uint32_t>(pairs.get<uint64_t>());
  }
  // Last, so that nothing above may rely on it.
  if (checksum_text(file.metadata, file.tensors) != text("checksum")) {
    fail(where, "the checkpoint is damaged: its checksum does not match", kAdvice);
  }
  return checkpoint;
}

}  // namespace

Checkpoint decode_checkpoint(std::span<const uint8_t> bytes,
                             const std::shared_ptr<const ParameterLayout>& layout,
                             std::string_view where) {
  ByteSource source;
  source.append(Bytes(bytes.begin(), bytes.end()));
  return decode(source, layout, where);
}

void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  write_file_atomic(path, source_of(checkpoint));
}

Checkpoint read_checkpoint(const std::filesystem::path& path,
                           const std::shared_ptr<const ParameterLayout>& layout) {
  if (!std::filesystem::exists(path)) {
    fail("round/checkpoint", "there is no checkpoint at ", path.string(), kAdvice);
  }
  return decode(file_source(path), layout, path.string());
}

}  // namespace espalier::round
