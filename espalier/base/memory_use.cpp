#include "espalier/base/memory_use.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>

namespace espalier {

namespace {

thread_local MemoryUse this_use = MemoryUse::kUpdates;
std::atomic<uint64_t> largest_heap{0};

void note_heap(uint64_t bytes) {
  uint64_t before = largest_heap;
  while (before < bytes && !largest_heap.compare_exchange_weak(before, bytes)) {
  }
}

}  // namespace

MemoryScope::MemoryScope(MemoryUse use) : before_(this_use) { this_use = use; }
MemoryScope::~MemoryScope() { this_use = before_; }
MemoryUse MemoryScope::current() { return this_use; }

uint64_t BlockUse::total() const { return std::accumulate(bytes.begin(), bytes.end(), recycled); }

// A mapping is a line "begin-end permissions offset device inode path", then lines "Name: value
// kB".
ResidentBytes resident_bytes() {
  ResidentBytes found;
  std::ifstream maps("/proc/self/smaps");
  uint64_t* kind = nullptr;
  for (std::string line; std::getline(maps, line);) {
    uint64_t kilobytes = 0;
    if (std::sscanf(line.c_str(), "Rss: %lu kB", &kilobytes) == 1) {
      if (kind != nullptr) *kind += kilobytes * 1024;
      continue;
    }
    const size_t colon = line.find(": ");
    if (colon != std::string::npos && line.find(' ') > colon) continue;  // of another value
    const size_t path = line.find_first_of("/[");
    kind = nullptr;
    if (path == std::string::npos) continue;
    const std::string_view name = std::string_view(line).substr(path);
    if (name == "[heap]") kind = &found.heap;
    if (name.starts_with('/')) {
      const bool shared = name.starts_with("/memfd:") || name.starts_with("/dev/shm/") ||
                          name.starts_with("/dev/zero");
      kind = shared ? &found.shared : &found.files;
    }
  }
  return found;
}

ResidentBytes peak_resident_bytes() {
  ResidentBytes found = resident_bytes();
  note_heap(found.heap);
  found.heap = largest_heap;
  return found;
}

void give_memory_back() {
  note_heap(resident_bytes().heap);
  free_kept_blocks();
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace espalier
