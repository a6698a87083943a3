#pragma once

#include <array>
#include <cstdint>
#include <string_view>

// What a process's memory is for. Large blocks (large_blocks.h) are counted by the use that the
// thread which takes them has named; the rest is what the system counts.
namespace espalier {

enum class MemoryUse : uint8_t {
  kUpdates,      // decoded tasks and updates: whatever nobody has named otherwise
  kData,         // samples
  kWeights,      // replicas: weights, gradients, optimizer states
  kActivations,  // replicas: activations with their gradients, what layers work in
  kScratch,      // replicas: batches, and what an engine needs besides
  kServer,       // the global model, and what the strategy keeps
};
inline constexpr size_t kNumMemoryUses = 6;
inline constexpr std::array<std::string_view, kNumMemoryUses> kMemoryUseNames = {
    "updates", "data", "weights", "activations", "scratch", "server"};

// From here to the end of the scope this thread takes large blocks for this use; scopes nest.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryUse use);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
  static MemoryUse current();

 private:
  MemoryUse before_;
};

// Large blocks by use when they were most, those kept for others (`recycled`) included.
struct BlockUse {
  std::array<uint64_t, kNumMemoryUses> bytes{};
  uint64_t recycled = 0;
  uint64_t total() const;
};
BlockUse peak_block_use();
// Of all that are taken now.
uint64_t taken_block_bytes();
// Returns those that are kept to the system.
void free_kept_blocks();

// What the system says is resident, by kind of mapping (/proc/self/smaps): malloc's heap, files
// (programs, libraries, what else is mapped), memory shared with other processes. All 0 where it
// does not say. Takes about a millisecond.
struct ResidentBytes {
  uint64_t heap = 0, files = 0, shared = 0;
};
ResidentBytes resident_bytes();
// The same with the largest heap that give_memory_back() has found.
ResidentBytes peak_resident_bytes();

// Returns to the system what is free: large blocks that are kept, and the heap's pages. For the
// ends of phases after which memory is used otherwise: it is zeroed anew when it is needed again.
void give_memory_back();

}  // namespace espalier
