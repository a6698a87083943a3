#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/codec/codec.h"
#include "espalier/params/parameter_set.h"

// What a codec costs and saves, measured on real messages: `espalier codec eval` and `espalier
// codec bench`.
namespace espalier::codec {

struct Evaluation {
  double vnmse = 0;  // mean over the trials of ‖x − x̂‖²/‖x‖²
  double bias2 = 0;  // ‖mean x̂ − x‖²/‖x‖²; an unbiased codec has about vnmse/trials
  double bits_per_coordinate = 0;  // the whole message, framing and checksum included
  uint64_t encoded_bytes = 0;      // mean, rounded
};

// Encodes and decodes x `trials` ≥ 1 times, with the keys key.child(0), key.child(1), …
Evaluation evaluate(const Codec& codec, const ParameterSet& x, uint64_t trials, Key key);

struct Speed {
  double encode_seconds = 0,
         decode_seconds = 0;  // of one message per thread, all threads at once; best of several
  uint64_t encoded_bytes = 0;
};

// Every one of `threads` ≥ 1 threads codes x by itself, as clients in parallel do; `seconds` is
// spent on each direction.
Speed measure_speed(const Codec& codec, const ParameterSet& x, size_t threads, double seconds);

// Bytes per second that std::memcpy copies, and values per second of an in-place pass y = c·y
// (read, modify, write), for `num_values` floats on one thread; the best of several.
struct MemorySpeed {
  double memcpy_bytes_per_second = 0, modify_values_per_second = 0;
};
MemorySpeed measure_memory(size_t num_values);

// One tensor "x" of `size` values from a named law: lognormal(0, 1), normal(0, 1), spiky (normal,
// one in 100 coordinates 100 times as large), two-hot (two ones), geometric (0.9^i). Throws Error
// for an unknown name.
ParameterSet make_example(std::string_view law, size_t size, Key key);
const std::vector<std::string>& example_laws();

// The codec of a text form for any size: small tensors are coded too.
std::unique_ptr<Codec> make_codec_for_example(std::string_view stages);

}  // namespace espalier::codec
