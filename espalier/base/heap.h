#pragma once

#include <cstddef>

namespace espalier {

// To be called once at the start of a program: the heap keeps its pages, and all threads share one.
void configure_heap();

// Of the large blocks (large_blocks.h) that are taken now; malloc's own figures do not have them.
size_t taken_block_bytes();

}  // namespace espalier
