#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "espalier/base/bytes.h"
#include "espalier/base/random.h"
#include "espalier/codec/range.h"

namespace espalier::codec {

// What stages tell each other of a block, so that none looks for what another has seen.
struct BlockNotes {
  std::span<const float> upcoming;  // what follows the block in the tensor, worth fetching early
  std::optional<Range> range;       // of a transform's coefficients
  bool small = false;               // a first stage saw finite values within kMaxMagnitude
};

// One step of a pipeline, applied to one block of values. A transform or a sparsifier hands
// coefficients to the next stage; a coder ends the pipeline by turning them into bytes. Stages are
// immutable: any number of threads may use one. Adding one: a stage_<name>.cpp with an options
// struct and a row for the table in registry.cpp.
class Stage {
 public:
  virtual ~Stage() = default;
  Stage() = default;
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  // Number of coefficients handed on for a block of n values; 0 for a coder.
  virtual size_t output_size(size_t n) const = 0;

  // Bytes appended for a block of n values: at most, and exactly unless take() is overridden.
  virtual size_t max_bytes(size_t n) const = 0;

  // in: n finite values of magnitude ≤ kMaxMagnitude; out: output_size(n) values, all to be
  // written; bytes: appended to. Everything random comes from `key`.
  virtual void encode(std::span<const float> in, Key key, std::span<float> out,
                      Bytes& bytes) const = 0;

  // As encode(), with what is known of the block besides. As the first stage of a pipeline, a stage
  // with tells_small() takes any values, NaN too, and says in the notes whether it saw that they
  // are small; other stages get values that were looked at before.
  virtual void encode_noted(std::span<const float> in, Key key, std::span<float> out, Bytes& bytes,
                            BlockNotes&) const {
    encode(in, key, out, bytes);
  }
  virtual bool tells_small() const { return false; }
  // As a coder: encode_noted() asks for the upcoming values bit by bit, which is better than at
  // once.
  virtual bool fetches_upcoming() const { return false; }

  // The inverse. in: output_size(n) values, which may be overwritten; bytes: what encode() appended
  // for this block, from anybody: throws Error when it cannot be; out: n values, all to be written.
  virtual void decode(std::span<float> in, std::span<const uint8_t> bytes, Key key,
                      std::span<float> out) const = 0;

  // Takes this stage's bytes of one block of n values from `reader`. A stage whose size depends on
  // the data overrides this.
  virtual std::span<const uint8_t> take(ByteReader& reader, size_t n) const {
    return reader.take(max_bytes(n));
  }

  // As the first stage: the number of values per block, a power of two, or 0 when the whole tensor
  // is one block.
  virtual size_t block() const { return 0; }
  // A coder with a cost per call: it gets the coefficients of several blocks at once (of kUnit
  // values).
  virtual bool spans_blocks() const { return false; }
  // E[decode(encode(x))] = x over keys, for every x, when the other stages have this property too.
  virtual bool unbiased() const = 0;
  virtual bool lossless() const { return false; }
};

// What lossy stages accept: sums of 2^20 such values stay finite.
inline constexpr float kMaxMagnitude = 0x1p96f;

}  // namespace espalier::codec
