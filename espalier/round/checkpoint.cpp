#include "espalier/round/checkpoint.h"

#include <xxhash.h>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::round {

namespace {
constexpr uint32_t kMagic = 0x4b505345;  // "ESPK"
constexpr uint8_t kVersion = 1;
constexpr size_t kMaxEstimates = 64;
constexpr const char* kAdvice = "; start the run again in a new folder";
}  // namespace

uint64_t fingerprint(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

Bytes encode_checkpoint(const Checkpoint& checkpoint) {
  Bytes bytes;
  ByteWriter out(bytes);
  out.put(kMagic);
  out.put(kVersion);
  out.put(checkpoint.configuration);
  out.put(checkpoint.round);
  Json ledger = Json::object();
  write_options(checkpoint.ledger, ledger);
  out.string(ledger.dump());
  write_values(checkpoint.global, out);
  out.put(static_cast<uint64_t>(checkpoint.strategy.size()));
  out.bytes(checkpoint.strategy);
  out.put(static_cast<uint64_t>(checkpoint.state_versions.size()));
  for (const auto& [client, version] : checkpoint.state_versions) {
    out.put(client);
    out.put(version);
  }
  out.put(static_cast<uint32_t>(checkpoint.estimates.size()));
  for (const auto& [name, estimate] : checkpoint.estimates) {
    out.string(name);
    write_values(estimate, out);
  }
  out.put(static_cast<uint8_t>(!checkpoint.downlink_state.empty()));
  if (!checkpoint.downlink_state.empty()) write_values(checkpoint.downlink_state, out);
  out.put(checksum32(bytes));
  return bytes;
}

Checkpoint decode_checkpoint(std::span<const uint8_t> bytes, const std::shared_ptr<const ParameterLayout>& layout,
                             std::string_view where) {
  if (bytes.size() < 4) fail(where, "the checkpoint is truncated", kAdvice);
  const auto content = bytes.first(bytes.size() - 4);
  uint32_t checksum;
  std::memcpy(&checksum, bytes.data() + content.size(), 4);
  if (checksum32(content) != checksum) fail(where, "the checkpoint is damaged: its checksum does not match", kAdvice);
  ByteReader in(content, where);
  if (in.get<uint32_t>() != kMagic) fail(where, "this is not a checkpoint");
  if (const auto version = in.get<uint8_t>(); version != kVersion) {
    fail(where, "expected checkpoint version ", int{kVersion}, ", got ", int{version}, "; resume with the release that wrote it");
  }
  Checkpoint checkpoint;
  checkpoint.configuration = in.get<uint64_t>();
  checkpoint.round = in.get<uint32_t>();
  const Json ledger = Json::parse(in.string(), nullptr, /*allow_exceptions=*/false);
  if (!ledger.is_object()) fail(where, "the ledger of the checkpoint is damaged", kAdvice);
  read_options({&ledger, "ledger"}, {}, checkpoint.ledger);
  checkpoint.global = ParameterSet(layout);
  read_values(in, checkpoint.global);
  const auto strategy = in.take(in.get<uint64_t>());
  checkpoint.strategy.assign(strategy.begin(), strategy.end());
  const auto count = in.get<uint64_t>();
  if (count > in.remaining() / 12) fail(where, "the checkpoint is truncated", kAdvice);
  for (uint64_t i = 0; i < count; ++i) {
    const auto client = in.get<uint64_t>();
    checkpoint.state_versions[client] = in.get<uint32_t>();
  }
  const auto estimates = in.get<uint32_t>();
  if (estimates > kMaxEstimates) fail(where, "the checkpoint is damaged", kAdvice);
  for (uint32_t i = 0; i < estimates; ++i) {
    const std::string name = in.string();
    ParameterSet estimate(layout);
    read_values(in, estimate);
    checkpoint.estimates.insert_or_assign(name, std::move(estimate));
  }
  if (in.get<uint8_t>() != 0) {
    checkpoint.downlink_state = ParameterSet(layout);
    read_values(in, checkpoint.downlink_state);
  }
  in.finish();
  return checkpoint;
}

void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  write_file_atomic(path, encode_checkpoint(checkpoint));
}

Checkpoint read_checkpoint(const std::filesystem::path& path, const std::shared_ptr<const ParameterLayout>& layout) {
  if (!std::filesystem::exists(path)) {
    fail("round/checkpoint", "there is no checkpoint at ", path.string(), kAdvice);
  }
  return decode_checkpoint(read_file(path), layout, path.string());
}

}  // namespace espalier::round
