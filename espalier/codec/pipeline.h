#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/options.h"
#include "espalier/base/random.h"
#include "espalier/codec/registry.h"
#include "espalier/codec/stage.h"

namespace espalier::codec {

// An ordered list of stages: transform → sparsifier → coder, each optional; without a coder,
// float32 ends it. It works block by block (the first stage says how long a block is, blocks.h how
// a tensor is cut), all stages on one block before the next, so that a block stays in the cache; a
// coder that spans blocks follows after each kUnit values. Block b of a tensor with key k has key
// k.child(b), its stage s has k.child(b).child(s); a coder that spans blocks takes the key of the
// first. Immutable; any number of threads may use one.
class Pipeline {
 public:
  struct Step {
    const StageRow* row;
    Json options;  // resolved
  };

  // Throws Error, with the reason, when the stages make no sense together.
  explicit Pipeline(std::vector<Step> steps);
  // Reads what to_wire() wrote.
  static Pipeline from_wire(ByteReader& reader);
  // "hadamard,quantize:bits=4", without `for` parts.
  static Pipeline from_text(std::string_view text);

  void to_wire(Bytes& out) const;
  // The text form, options that differ from their defaults only.
  const std::string& describe() const { return text_; }

  // Appends the encoding of x. Throws Error on NaN, infinity or, unless lossless, a magnitude above
  // kMaxMagnitude; `name` (of the tensor) is for that message. On failure `out` may hold a part.
  void encode(std::span<const float> x, Key key, std::string_view name, Bytes& out) const;

  // Decodes what encode() made of out.size() values; the reader is left behind its last byte.
  // Returns the largest magnitude's bits. Throws Error on anything else, and when a decoded value
  // is not finite.
  uint32_t decode(ByteReader& reader, Key key, std::string_view name, std::span<float> out) const;

  // Upper bound of the encoded size of n values; exact unless a stage's size depends on the data.
  size_t max_bytes(size_t n) const;

  bool unbiased() const;
  bool lossless() const;
  // Whether a transform comes first, so that what is lost of a value is spread over its block.
  bool spreads() const;
  // Whether it is float32 and nothing else.
  bool plain() const;

 private:
  // Calls visit(begin, size, first_block) for every unit: what the coder gets at once.
  template <class Visit>
  void for_each_unit(size_t n, Visit&& visit) const;
  size_t scratch_size(size_t n) const;

  std::vector<Step> steps_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::string text_;
  size_t block_ = 0;
};

// The text form "name:option=value:…,name:…" as the list of tables it stands for. Values are TOML
// values or plain words.
Json parse_stages(std::string_view text);

}  // namespace espalier::codec
