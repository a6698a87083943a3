#include "espalier/base/large_blocks.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <span>
#include <unordered_map>

#include "espalier/base/memory_use.h"
#include "espalier/base/sanitizers.h"

namespace espalier {

namespace {

constexpr bool kKeeps = !kSanitizedHeap;
constexpr size_t kGrain = size_t{1} << 16;
constexpr size_t kKeptBytes = size_t{64} << 20;
constexpr std::align_val_t kAligned{64};
constexpr size_t kHugePage = size_t{2} << 20;

size_t rounded(size_t bytes) { return (bytes + kGrain - 1) / kGrain * kGrain; }

// Whole pages of the system's: in the heap, between what lives longer, they would leave holes. From
// kHugePage on they begin with a large page, so that passes over them wait for fewer addresses.
void* map_block(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  const size_t spare = huge ? kHugePage : 0;
  void* const block =
      mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  if (!huge) return block;
  const auto begin = reinterpret_cast<uintptr_t>(block);
  const uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(block, aligned - begin);
  if (begin + spare > aligned)
    munmap(reinterpret_cast<void*>(aligned + bytes), begin + spare - aligned);
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
  return reinterpret_cast<void*>(aligned);
}

struct Block {
  void* memory;
  size_t bytes;
};

// The free blocks, the longest free first. A plain array: giving back must not allocate.
class FreeBlocks {
 public:
  // One of so many bytes, the last given back, or a new one.
  void* take(size_t bytes) {
    const MemoryUse use = MemoryScope::current();
    const std::lock_guard lock(mutex_);
    for (size_t i = count_; i-- > 0;) {
      if (blocks_[i].bytes != bytes) continue;
      uses_.insert_or_assign(blocks_[i].memory, use);
      return used(remove(i), use);
    }
    void* const memory = map_block(bytes);
    try {
      uses_.insert_or_assign(memory, use);
    } catch (...) {
      munmap(memory, bytes);
      throw;
    }
    used({memory, bytes}, use);
    mapped_ += bytes;
    if (mapped_ <= most_mapped_) return memory;
    most_mapped_ = mapped_;
    peak_ = now_;
    peak_.recycled = held_;
    return memory;
  }

  // Keeps it, and frees those that there is no room for.
  void give(void* block, size_t bytes) {
    std::array<Block, kMost> released;
    size_t num_released = 0;
    {
      const std::lock_guard lock(mutex_);
      // One that another copy of this library has taken is ours from now on.
      if (const auto known = uses_.find(block); known != uses_.end()) {
        now_.bytes[static_cast<size_t>(known->second)] -= bytes;
        uses_.erase(known);
      } else {
        mapped_ += bytes;
      }
      const size_t room = std::max(kKeptBytes, 2 * bytes);
      while (count_ > 0 && (count_ == kMost || held_ + bytes > room))
        released[num_released++] = remove(0);
      blocks_[count_++] = {block, bytes};
      held_ += bytes;
    }
    unmap(std::span(released).first(num_released));
  }

  // Unmaps all that are free.
  void clear() {
    std::array<Block, kMost> released;
    size_t num_released = 0;
    {
      const std::lock_guard lock(mutex_);
      while (count_ > 0) released[num_released++] = remove(0);
    }
    unmap(std::span(released).first(num_released));
  }

  uint64_t taken() {
    const std::lock_guard lock(mutex_);
    return now_.total();
  }

  BlockUse peak() {
    const std::lock_guard lock(mutex_);
    return peak_;
  }

 private:
  static constexpr size_t kMost = kKeptBytes / kLargeBlock;
  Block remove(size_t index) {
    const Block removed = blocks_[index];
    held_ -= removed.bytes;
    std::copy(blocks_.begin() + static_cast<std::ptrdiff_t>(index) + 1,
              blocks_.begin() + static_cast<std::ptrdiff_t>(count_),
              blocks_.begin() + static_cast<std::ptrdiff_t>(index));
    --count_;
    return removed;
  }
  void* used(Block block, MemoryUse use) {
    now_.bytes[static_cast<size_t>(use)] += block.bytes;
    return block.memory;
  }
  void unmap(std::span<const Block> blocks) {
    size_t bytes = 0;
    for (const Block& block : blocks) {
      munmap(block.memory, block.bytes);
      bytes += block.bytes;
    }
    const std::lock_guard lock(mutex_);
    mapped_ -= bytes;
  }
  std::mutex mutex_;
  std::array<Block, kMost> blocks_;
  size_t count_ = 0, held_ = 0;
  std::unordered_map<void*, MemoryUse> uses_;  // of the blocks that are taken
  size_t mapped_ = 0, most_mapped_ = 0;        // taken and free ones
  BlockUse now_, peak_;
};

// Never destroyed: vectors of static storage may outlive it otherwise.
FreeBlocks& free_blocks() {
  static FreeBlocks* const blocks = new FreeBlocks;
  return *blocks;
}

}  // namespace

void* take_block(size_t bytes) {
  if (!kKeeps) return ::operator new(bytes, kAligned);
  return free_blocks().take(rounded(bytes));
}

void give_block(void* block, size_t bytes) noexcept {
  if (!kKeeps) return ::operator delete(block, kAligned);
  free_blocks().give(block, rounded(bytes));
}

void free_kept_blocks() { free_blocks().clear(); }
BlockUse peak_block_use() { return free_blocks().peak(); }
uint64_t taken_block_bytes() { return free_blocks().taken(); }

}  // namespace espalier
