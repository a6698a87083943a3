#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/options.h"
#include "espalier/base/varint.h"
#include "espalier/codec/stage.h"

// The table of stages. A row knows a stage's name, its number on the wire and its options struct;
// everything else (TOML, text form, wire form, help) follows from the struct's fields().
namespace espalier::codec {

// A pipeline has at most one stage of each kind, in this order.
enum class StageKind { kIdentity, kTransform, kSparsifier, kCoder };

// What stands before a stage in its pipeline.
struct StageContext {
  int64_t rotations = 0;    // random rotations applied
  bool rotated = false;     // coordinates are alike: a rotation or a frame stands before
  bool gaussian = false;    // … and normal, so that codes made for N(0,1) fit
  bool sparsified = false;  // only some coordinates are left
  bool scaled_up = false;   // … multiplied by N/m, to be unbiased
  bool first = true;
  size_t block = 0;  // values per block; 0 is the whole tensor
};

struct StageRow {
  std::string name;
  uint8_t wire_id;  // part of the format: never reuse
  StageKind kind;
  std::string summary;  // one line for `espalier list codecs`

  // All options with their values; throws Error on an unknown key or a value out of range. Keys in
  // `other_keys` are ignored.
  Json (*resolve)(const ConfigSection& section, const std::vector<std::string>& other_keys);
  void (*to_wire)(const Json& options, Bytes& out);
  Json (*from_wire)(ByteReader& reader);
  std::vector<FieldHelp> (*describe)();
  // Throws Error, with the reason, when the stage makes no sense after what stands before it;
  // updates `context`.
  std::unique_ptr<Stage> (*make)(const Json& options, StageContext& context);
};

const std::vector<StageRow>& stage_rows();
// Throws Error naming the nearest known stage.
const StageRow& stage_row(std::string_view name);
const StageRow& stage_row(uint8_t wire_id, std::string_view where);

// ---- for the stages' own files ----

// Throws Error unless `block` is 0, 1024, 2048 or 4096.
void check_block(std::string_view stage, int64_t block);

template <class Options>
Options options_from(const Json& table) {
  Options options;
  read_options(ConfigSection{&table, ""}, {}, options);
  return options;
}

namespace wire {
inline void put_option(Bytes& out, bool value) { out.push_back(value ? 1 : 0); }
inline void put_option(Bytes& out, int64_t value) { put_varint(out, zigzag(value)); }
inline void put_option(Bytes& out, double value) { ByteWriter(out).put(value); }
inline void put_option(Bytes& out, const std::string& value) {
  put_varint(out, value.size());
  out.insert(out.end(), value.begin(), value.end());
}
inline void get_option(ByteReader& in, bool& value) { value = in.get<uint8_t>() != 0; }
inline void get_option(ByteReader& in, int64_t& value) { value = unzigzag(get_varint(in)); }
inline void get_option(ByteReader& in, double& value) { value = in.get<double>(); }
inline void get_option(ByteReader& in, std::string& value) {
  const auto text = in.take(get_varint(in));
  value.assign(text.begin(), text.end());
}
}  // namespace wire

template <class Options, std::unique_ptr<Stage> (*kMake)(const Options&, StageContext&)>
StageRow make_stage_row(std::string name, uint8_t wire_id, StageKind kind, std::string summary) {
  return {std::move(name),
          wire_id,
          kind,
          std::move(summary),
          [](const ConfigSection& section, const std::vector<std::string>& other_keys) {
            Options options;
            read_options(section, other_keys, options);
            Json table = Json::object();
            write_options(options, table);
            return table;
          },
          [](const Json& table, Bytes& out) {
            const auto options = options_from<Options>(table);
            Options::fields(options, [&](std::string_view, const auto& member, const Field&) {
              wire::put_option(out, member);
            });
          },
          [](ByteReader& reader) {
            Options options;
            Options::fields(options, [&](std::string_view, auto& member, const Field&) {
              wire::get_option(reader, member);
            });
            Json table = Json::object();
            write_options(options, table);
            options_from<Options>(table);  // checks the ranges
            return table;
          },
          [] { return describe_options<Options>(); },
          [](const Json& table, StageContext& context) {
            return kMake(options_from<Options>(table), context);
          }};
}

}  // namespace espalier::codec
