#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/random.h"
#include "espalier/codec/pipeline.h"
#include "espalier/params/parameter_set.h"

// The wire format of encoded tensors, version 1. docs/format.md has the grammar and a worked
// example.
namespace espalier::codec {

inline constexpr uint8_t kFormatVersion = 1;
inline constexpr std::string_view kMessageWhere = "codec/message";

struct TensorHeader {
  std::vector<int64_t> shape;
  uint64_t num_values = 0;
  size_t pipeline = 0;
  std::span<const uint8_t> payload;
};

// Everything before the payloads; the spans point into the message.
struct MessageHeader {
  Key key{0};
  size_t num_pipelines = 0;
  std::span<const uint8_t> pipeline_table;  // the pipelines' wire form, one after the other
  uint32_t layout_fingerprint = 0;
  std::vector<TensorHeader> tensors;
};

// Appends everything before the payloads, whose sizes are 0; the result is where tensor t's size
// (u32) stands in `out`. chosen[t] as below.
std::vector<size_t> write_header(const ParameterLayout& layout, Key key,
                                 std::span<const Pipeline> pipelines,
                                 std::span<const size_t> chosen, Bytes& out);
// The header of a message whose pipelines are all plain (pipeline.h): plain.h does the rest.
Bytes plain_header(const ParameterLayout& layout, Key key, std::span<const Pipeline> pipelines,
                   std::span<const size_t> chosen);
// The key in what may be a message.
std::optional<Key> key_in(std::span<const uint8_t> message);

// Appends a message. chosen[t] is the position of tensor t's pipeline in `pipelines`. On failure
// `out` may hold a part.
void encode_message(const ParameterLayout& layout, std::span<const float> values, Key key,
                    std::span<const Pipeline> pipelines, std::span<const size_t> chosen,
                    Bytes& out);

// Parses and checks a message: magic, version, checksum, and that all declared sizes add up. Memory
// is bounded by the message's own size.
MessageHeader read_header(std::span<const uint8_t> message);

// The pipelines of the message's table. Throws Error when there is none of that kind.
std::vector<Pipeline> read_pipelines(const MessageHeader& header);

// The layout that the message tells of: tensors called "0", "1", … and all weights. Throws Error
// when they have more than `max_values` values.
std::shared_ptr<const ParameterLayout> nameless_layout(const MessageHeader& header,
                                                       uint64_t max_values);

// Throws Error unless the message has exactly this layout.
void check_layout(const MessageHeader& header, const ParameterLayout& layout);

// Decodes all payloads and returns the largest magnitude. Throws Error when one does not decode;
// `out` then holds a part.
float decode_payloads(const MessageHeader& header, std::span<const Pipeline> pipelines,
                      const ParameterLayout& layout, std::span<float> out);

// Decodes one payload, all of it, and returns the largest magnitude.
float decode_payload(std::span<const uint8_t> payload, const Pipeline& pipeline, Key key,
                     std::string_view name, std::span<float> out);

// Decodes a message by what it says of itself, for tools and tests, into nameless_layout().
// Messages of more than `max_values` values are refused before anything is allocated for them.
ParameterSet decode_any(std::span<const uint8_t> message, uint64_t max_values = uint64_t{1} << 26);

// checksum32 of names, shapes and roles.
uint32_t layout_fingerprint(const ParameterLayout& layout);

}  // namespace espalier::codec
