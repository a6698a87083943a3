#include "espalier/base/digest.h"

#include <gtest/gtest.h>

#include "espalier/base/bytes.h"

namespace espalier {
namespace {

TEST(Digest, PiecesAreTheWhole) {
  Bytes data(10'000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * i >> 3);
  Digest whole;
  whole.update(data);
  Digest parts;
  for (size_t at = 0; at < data.size(); at += 777)
    parts.update(std::span(data).subspan(at, std::min<size_t>(777, data.size() - at)));
  parts.update({});
  EXPECT_EQ(parts.value(), whole.value());
  EXPECT_EQ(whole.checksum32(), checksum32(data));
  // XXH3-64 of nothing, from the reference implementation.
  EXPECT_EQ(Digest().value(), 0x2d06800538d394c2U);
}

TEST(Digest, GoesOnAfterItsValueWasAsked) {
  const Bytes data = {1, 2, 3, 4};
  Digest one, two;
  one.update(std::span(data).first(2));
  const uint64_t half = one.value();
  one.update(std::span(data).subspan(2));
  two.update(data);
  EXPECT_EQ(one.value(), two.value());
  EXPECT_NE(one.value(), half);
}

#if defined(__x86_64__)
// Scalar code after a digest would be slow (digest.cpp).
TEST(Digest, LeavesNoUpperHalvesOfVectorsInUse) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "this processor has none";
  const auto expect_clear = [](const auto& digest) {
    alignas(32) uint64_t registers[16][4] = {};
    digest();
    asm volatile(
        "vmovdqa %%ymm0, 0(%0)\n vmovdqa %%ymm1, 32(%0)\n vmovdqa %%ymm2, 64(%0)\n"
        "vmovdqa %%ymm3, 96(%0)\n vmovdqa %%ymm4, 128(%0)\n vmovdqa %%ymm5, 160(%0)\n"
        "vmovdqa %%ymm6, 192(%0)\n vmovdqa %%ymm7, 224(%0)\n vmovdqa %%ymm8, 256(%0)\n"
        "vmovdqa %%ymm9, 288(%0)\n vmovdqa %%ymm10, 320(%0)\n vmovdqa %%ymm11, 352(%0)\n"
        "vmovdqa %%ymm12, 384(%0)\n vmovdqa %%ymm13, 416(%0)\n vmovdqa %%ymm14, 448(%0)\n"
        "vmovdqa %%ymm15, 480(%0)\n"
        :
        : "r"(registers)
        : "memory");
    for (int i = 0; i < 16; ++i)
      EXPECT_TRUE(registers[i][2] == 0 && registers[i][3] == 0) << "register " << i;
  };
  Bytes data(10'000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * i >> 3);
  uint64_t sum = 0;
  expect_clear([&] { sum += digest64(data); });
  Digest digest;
  expect_clear([&] { digest.update(data); });
  expect_clear([&] { sum += digest.value(); });
  EXPECT_NE(sum, 0u);
}
#endif

}  // namespace
}  // namespace espalier
