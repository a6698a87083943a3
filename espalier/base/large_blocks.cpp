#include "espalier/base/large_blocks.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

#include "espalier/base/heap.h"

namespace espalier {

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kKeeps = false;  // so that they see the ends of blocks
#else
constexpr bool kKeeps = true;
#endif
constexpr size_t kGrain = size_t{1} << 16;
constexpr size_t kKeptBytes = size_t{64} << 20;
constexpr std::align_val_t kAligned{64};

size_t rounded(size_t bytes) { return (bytes + kGrain - 1) / kGrain * kGrain; }

// Whole pages of the system's: in the heap, between what lives longer, they would leave holes.
void* map_block(size_t bytes) {
  void* const block =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  return block;
}

struct Block {
  void* memory;
  size_t bytes;
};

// The free blocks, the longest free first. A plain array: giving back must not allocate.
class FreeBlocks {
 public:
  // One of so many bytes, the last given back, or null.
  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    for (size_t i = count_; i-- > 0;) {
      if (blocks_[i].bytes == bytes) return remove(i).memory;
    }
    return nullptr;
  }

  // Keeps it, and frees those that there is no room for.
  void give(void* block, size_t bytes) {
    std::array<Block, kMost> released;
    size_t num_released = 0;
    {
      const std::lock_guard lock(mutex_);
      const size_t room = std::max(kKeptBytes, 2 * bytes);
      while (count_ > 0 && (count_ == kMost || held_ + bytes > room))
        released[num_released++] = remove(0);
      blocks_[count_++] = {block, bytes};
      held_ += bytes;
    }
    for (size_t i = 0; i < num_released; ++i) munmap(released[i].memory, released[i].bytes);
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
  std::mutex mutex_;
  std::array<Block, kMost> blocks_;
  size_t count_ = 0, held_ = 0;
};

std::atomic<size_t> taken_bytes = 0;

// Never destroyed: vectors of static storage may outlive it otherwise.
FreeBlocks& free_blocks() {
  static FreeBlocks* const blocks = new FreeBlocks;
  return *blocks;
}

}  // namespace

void* take_block(size_t bytes) {
  if (!kKeeps) return ::operator new(bytes, kAligned);
  const size_t size = rounded(bytes);
  void* block = free_blocks().take(size);
  if (block == nullptr) block = map_block(size);
  taken_bytes += bytes;
  return block;
}

void give_block(void* block, size_t bytes) noexcept {
  if (!kKeeps) return ::operator delete(block, kAligned);
  taken_bytes -= bytes;
  free_blocks().give(block, rounded(bytes));
}

size_t taken_block_bytes() { return taken_bytes; }

}  // namespace espalier
