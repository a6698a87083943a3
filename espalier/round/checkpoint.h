#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "espalier/base/byte_source.h"
#include "espalier/base/bytes.h"
#include "espalier/params/parameter_set.h"
#include "espalier/round/ledger.h"

namespace espalier::round {

// Everything the server needs to go on after a crash. Random numbers need no state: they are
// functions of seed and round.
struct Checkpoint {
  // Who resumes compares it: reading a checkpoint does not.
  uint64_t configuration = 0;  // fingerprint of the resolved configuration
  uint32_t round = 0;          // rounds completed
  Ledger ledger;
  ParameterSet global;
  // What Strategy::save writes; in parts with a strategy that has strategy::LongState, which must
  // not be called for anything else meanwhile.
  ByteSource strategy;
  std::map<uint64_t, uint32_t> state_versions;  // client → round of its committed state
  std::map<std::string, ParameterSet>
      estimates;  // EF21: mean of what the clients have said, by payload; model layout
  ParameterSet downlink_state;  // delta downlink: what clients hold; empty when it is off
};

// As one safetensors file: written beside, synced, renamed. Tensors model/NAME,
// estimate/PAYLOAD/NAME and held/NAME are float32, strategy is bytes, state_versions pairs of
// client and round; the rest, with a checksum of everything, is metadata. Reading checks format,
// sizes, shapes and checksum; `layout` is the model's. Throws Error for a missing or damaged file,
// one of another model or of another release's format; strategy's bytes are left to Strategy::load
// and stay in the file until they are read. A failed write, also when the strategy's state cannot
// be read, throws Error and leaves the file that was there. Memory: the header's text and a small
// buffer to write, the model's sets to read.
void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint);
Checkpoint read_checkpoint(const std::filesystem::path& path,
                           const std::shared_ptr<const ParameterLayout>& layout);
// The same without a file, for tests and fuzzing.
Bytes encode_checkpoint(const Checkpoint& checkpoint);
Checkpoint decode_checkpoint(std::span<const uint8_t> bytes,
                             const std::shared_ptr<const ParameterLayout>& layout,
                             std::string_view where);

// A fingerprint of any text: XXH3, 64 bits. Equal for equal texts on every machine; no protection
// against forgery.
uint64_t fingerprint(std::string_view text);

}  // namespace espalier::round
