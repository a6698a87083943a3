#pragma once

#include <optional>
#include <span>

#include "espalier/base/bytes.h"

// Messages of which every tensor travels as float32: a header that the layout, the pipelines and
// the key determine, all values one after the other, the checksum. They are written and read in
// pieces, and all that is done with a piece (difference, checks, copy, checksum) is done while it
// is in the first-level cache: each value of a model is moved once.
namespace espalier::codec {

// The values of `after`, or after − before; `before` is empty or as long.
struct PlainValues {
  std::span<const float> after, before;
};

// Appends header, values and checksum. False, with `out` as it was, when a value is not finite.
bool append_plain(std::span<const uint8_t> header, const PlainValues& values, Bytes& out);

// Copies the values of a message with this header to `out` and returns their largest magnitude.
// Nothing, with a part in `out`, when it is not such a message of out.size() values, is damaged or
// has a value that is not finite.
std::optional<float> copy_plain(std::span<const uint8_t> header, std::span<const uint8_t> message,
                                std::span<float> out);

}  // namespace espalier::codec
