#pragma once

#include <cstdint>
#include <span>

// For tests only.
namespace espalier {

// FNV-1a: by it a test names the bytes that it expects.
inline uint64_t fnv1a(std::span<const uint8_t> bytes) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001B3u;
  return hash;
}

}  // namespace espalier
