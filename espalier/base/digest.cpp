#include "espalier/base/digest.h"

#include <xxhash.h>
#if defined(__x86_64__)
#include <immintrin.h>
// Debian's library has a version for every width; the plain functions are those for the oldest
// processor.
#include <xxh_x86dispatch.h>
#endif

#include <new>

#include "espalier/base/bytes.h"

namespace espalier {

namespace {

XXH3_state_t* raw(void* state) { return static_cast<XXH3_state_t*>(state); }

// libxxhash leaves the upper halves of the vector registers in use. With them scalar code, libm's
// above all, takes up to three times as long, until something else clears them.
#if defined(__x86_64__)
__attribute__((target("avx"))) void clear_avx() { _mm256_zeroupper(); }
void clear_upper_halves() {
  if (__builtin_cpu_supports("avx")) clear_avx();
}
#else
void clear_upper_halves() {}
#endif

}  // namespace

uint64_t digest64(std::span<const uint8_t> data) {
  const uint64_t digest = XXH3_64bits(data.data(), data.size());
  clear_upper_halves();
  return digest;
}

uint32_t checksum32(std::span<const uint8_t> data) { return static_cast<uint32_t>(digest64(data)); }

void Digest::Deleter::operator()(State* state) const { XXH3_freeState(raw(state)); }

Digest::Digest() : state_(static_cast<State*>(static_cast<void*>(XXH3_createState()))) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(raw(state_.get()));
}

void Digest::update(std::span<const uint8_t> data) {
  XXH3_64bits_update(raw(state_.get()), data.data(), data.size());
  clear_upper_halves();
}

uint64_t Digest::value() const {
  const uint64_t digest = XXH3_64bits_digest(raw(state_.get()));
  clear_upper_halves();
  return digest;
}

}  // namespace espalier
