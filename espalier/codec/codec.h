#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/params/parameter_set.h"

namespace espalier::codec {

// Where the tensors of one encoded message stand in it, so that a tensor can be decoded without the
// others and without the rest of the message in memory. Made by Codec::index; bound to that codec.
class MessageIndex {
 public:
  struct Range {
    uint64_t offset = 0, size = 0;  // bytes of the message
  };

  const std::shared_ptr<const ParameterLayout>& layout() const { return layout_; }
  size_t num_tensors() const { return ranges_.size(); }
  const Range& range(size_t tensor) const { return ranges_[tensor]; }

 private:
  friend class ConfiguredCodec;
  std::shared_ptr<const ParameterLayout> layout_;
  Key key_{0};
  std::vector<Range> ranges_;
  std::vector<uint8_t> pipelines_;
};

// What a codec does to the tensors of a layout.
struct Coverage {
  int64_t coded_values = 0;                // of tensors that do not travel as float32
  std::vector<std::string> idle_patterns;  // of `for`, names that no tensor has
};

// What one pipeline of a codec loses, E‖C(x) − x‖²/‖x‖² for normal x.
struct PipelineLoss {
  std::string stages;  // "hadamard,quantize:bits=4"
  std::string tensor;  // the largest one that it codes; x is as long, up to 8192 values
  double relative_error = 0;
};

// Encodes named tensors into the bytes that travel and back: an ordered pipeline of stages per
// tensor (transform → subsample → quantize → entropy-code), chosen by the tensor's role. Immutable;
// any number of threads may use one Codec.
class Codec {
 public:
  virtual ~Codec() = default;

  // Appends the encoded message to `out`; `values` are layout.num_values() of them. Everything
  // random comes from `key`, which travels in the message. Throws Error when a value is NaN or
  // infinite; `out` is then as it was.
  virtual void encode(const ParameterLayout& layout, std::span<const float> values, Key key,
                      Bytes& out) const = 0;
  void encode(const ParameterSet& x, Key key, Bytes& out) const {
    encode(x.layout(), x.values(), key, out);
  }
  // The message that encode() makes of after − before, without that ever being in memory as a
  // whole when all of it travels as float32.
  virtual void encode_difference(const ParameterLayout& layout, std::span<const float> after,
                                 std::span<const float> before, Key key, Bytes& out) const = 0;

  // Decodes a message that encode() of an equally configured codec made from a `layout` like this
  // into layout.num_values() values, and returns their largest magnitude. Throws Error on anything
  // else: truncation, a flipped bit, another layout, sizes beyond the caps; `out` then holds a
  // part. Allocates nothing of the message's size before checks.
  virtual float decode(std::span<const uint8_t> message, const ParameterLayout& layout,
                       std::span<float> out) const = 0;
  float decode(std::span<const uint8_t> message, ParameterSet& out) const {
    return decode(message, out.layout(), out.values());
  }

  // Checks a message against `layout` as decode() does, its payloads excepted, which are checked as
  // they are decoded. Throws Error as decode() does.
  virtual MessageIndex index(std::span<const uint8_t> message,
                             std::shared_ptr<const ParameterLayout> layout) const = 0;
  // Decodes one tensor of an indexed message: the same values as decode() gives it. `payload`: the
  // bytes of index.range(tensor); out: the tensor's values. Throws Error when it does not decode;
  // `out` then holds a part.
  virtual void decode_tensor(const MessageIndex& index, size_t tensor,
                             std::span<const uint8_t> payload, std::span<float> out) const = 0;

  // Whether E[decode(encode(x))] = x over keys.
  virtual bool unbiased() const = 0;
  // Whether decode(encode(x)) = x exactly.
  virtual bool lossless() const = 0;
  // Whether what is lost of a value is spread over many. Otherwise many different values may arrive
  // as the same one: as 0 behind a sparsifier, as a level behind a quantizer.
  virtual bool spreads() const = 0;
  // "hadamard,quantize:bits=4"; "identity" for float32.
  virtual std::string describe() const = 0;
  virtual Coverage coverage(const ParameterLayout& layout) const = 0;
  // Of every lossy pipeline that codes a tensor of the layout, once each; measured here and now.
  virtual std::vector<PipelineLoss> losses(const ParameterLayout& layout) const = 0;
};

// From the stage tables of a configuration ([[downlink]] or [[uplink]], a JSON list; `path` names
// it in errors). An empty list is the identity: float32 as it is.
std::unique_ptr<Codec> make_codec(const Json& stages, const std::string& path);

// What a person should know of a lossy codec that codes no tensor of the layout, each a `what`
// ("weight of model mlp"); empty: it codes some, or loses nothing. `path` as above.
std::string idle_note(const Codec& codec, const ParameterLayout& layout, const std::string& path,
                      const std::string& what);

// Throws Error when a `for` of the codec names tensors that the layout does not have: a misspelled
// one would do nothing. `path` as above.
void require_named_tensors(const Codec& codec, const ParameterLayout& layout,
                           const std::string& path);

}  // namespace espalier::codec
