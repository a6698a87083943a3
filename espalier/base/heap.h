#pragma once

namespace espalier {

// To be called once at the start of a program: the heap keeps its pages, and all threads share one.
void configure_heap();

}  // namespace espalier
