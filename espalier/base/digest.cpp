#include "espalier/base/digest.h"

#include <xxhash.h>
#if defined(__x86_64__)
// Debian's library has a version for every width; the plain functions are those for the oldest
// processor.
#include <xxh_x86dispatch.h>
#endif

#include <new>

#include "espalier/base/bytes.h"

namespace espalier {

namespace {

XXH3_state_t* raw(void* state) { return static_cast<XXH3_state_t*>(state); }

}  // namespace

uint64_t digest64(std::span<const uint8_t> data) { return XXH3_64bits(data.data(), data.size()); }

uint32_t checksum32(std::span<const uint8_t> data) { return static_cast<uint32_t>(digest64(data)); }

void Digest::Deleter::operator()(State* state) const { XXH3_freeState(raw(state)); }

Digest::Digest() : state_(static_cast<State*>(static_cast<void*>(XXH3_createState()))) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(raw(state_.get()));
}

void Digest::update(std::span<const uint8_t> data) {
  XXH3_64bits_update(raw(state_.get()), data.data(), data.size());
}

uint64_t Digest::value() const { return XXH3_64bits_digest(raw(state_.get())); }

}  // namespace espalier
