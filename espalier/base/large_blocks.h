#pragma once

#include <cstddef>
#include <new>

// Memory for buffers of a model's size, which come and go with every client's messages. What is
// given back is kept for the next one of about that size, with its pages; so the memory of a
// process is what it holds at one time, however many clients there are, and no pages are zeroed
// anew.
namespace espalier {

inline constexpr size_t kLargeBlock = size_t{1} << 18;  // from here on blocks are kept

// Aligned to 64 bytes, contents unspecified. Throws std::bad_alloc. Any thread.
void* take_block(size_t bytes);
// `bytes`: as it was taken. At most 64 MiB, or the last two blocks that were larger, stay for
// others.
void give_block(void* block, size_t bytes) noexcept;

// For std::vector: large ones are taken from there. kAlignment: of the small ones.
template <class T, size_t kAlignment = alignof(std::max_align_t)>
struct BlockAllocator {
  using value_type = T;
  template <class U>
  struct rebind {
    using other = BlockAllocator<U, kAlignment>;
  };
  BlockAllocator() = default;
  template <class U>
  BlockAllocator(const BlockAllocator<U, kAlignment>&) {}  // NOLINT(google-explicit-constructor)
  T* allocate(size_t n) {
    const size_t bytes = n * sizeof(T);
    if (bytes >= kLargeBlock) return static_cast<T*>(take_block(bytes));
    if constexpr (kAlignment > alignof(std::max_align_t)) {
      return static_cast<T*>(::operator new (bytes, std::align_val_t{kAlignment}));
    } else {
      return static_cast<T*>(::operator new(bytes));
    }
  }
  void deallocate(T* pointer, size_t n) {
    if (n * sizeof(T) >= kLargeBlock) return give_block(pointer, n * sizeof(T));
    if constexpr (kAlignment > alignof(std::max_align_t)) {
      ::operator delete (pointer, std::align_val_t{kAlignment});
    } else {
      ::operator delete(pointer);
    }
  }
  friend bool operator==(BlockAllocator, BlockAllocator) { return true; }
};

// The same, whose vectors leave new elements unset where no value is given for them.
template <class T, size_t kAlignment>
struct UnsetAllocator : BlockAllocator<T, kAlignment> {
  template <class U>
  struct rebind {
    using other = UnsetAllocator<U, kAlignment>;
  };
  UnsetAllocator() = default;
  template <class U>
  UnsetAllocator(const UnsetAllocator<U, kAlignment>&) {}  // NOLINT(google-explicit-constructor)
  template <class U>
  void construct(U* place) {
    ::new (static_cast<void*>(place)) U;
  }
  template <class U, class... Arguments>
  void construct(U* place, Arguments&&... arguments) {
    ::new (static_cast<void*>(place)) U(static_cast<Arguments&&>(arguments)...);
  }
};

}  // namespace espalier
