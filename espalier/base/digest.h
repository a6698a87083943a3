#pragma once

#include <cstdint>
#include <memory>
#include <span>

// XXH3-64, with the widest vectors that the processor has: the same everywhere.
namespace espalier {

uint64_t digest64(std::span<const uint8_t> data);

// The same of bytes that come piece by piece. One thread at a time.
class Digest {
 public:
  Digest();
  void update(std::span<const uint8_t> data);
  // Of everything so far; more may follow.
  uint64_t value() const;
  // As checksum32 (base/bytes.h): the low half.
  uint32_t checksum32() const { return static_cast<uint32_t>(value()); }

 private:
  struct State;
  struct Deleter {
    void operator()(State* state) const;
  };
  std::unique_ptr<State, Deleter> state_;
};

}  // namespace espalier
