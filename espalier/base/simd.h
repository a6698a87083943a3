#pragma once

// ESPALIER_KERNEL before a function with plain loops compiles it for several instruction sets; the
// best one is bound when the program starts. Templates called inside carry ESPALIER_INLINE, so that
// they are compiled with their caller's instructions. Sanitizers run before the binding is done,
// and clang's support is incomplete: there it means nothing. The project is compiled with
// -ffp-contract=off, so that all of them give the same bits.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_UNDEFINED__) && !defined(ESPALIER_NO_CLONES)
#define ESPALIER_HAS_CLONES
#define ESPALIER_KERNEL \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ESPALIER_KERNEL
#endif
#define ESPALIER_INLINE __attribute__((always_inline)) inline
