#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "espalier/base/bytes.h"
#include "hwy/highway.h"

namespace espalier::codec {

// For tests: runs `body` once with each instruction set that this machine has and the library was
// compiled for.
template <class Body>
void for_every_target(Body&& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// code(bytes, out) encodes the same values to `bytes` and decodes them to the `n` values of `out`:
// the same ones with each instruction set.
template <class Code>
void expect_same_on_every_target(size_t n, Code&& code) {
  Bytes first;
  std::vector<float> values;
  for_every_target([&] {
    Bytes bytes;
    std::vector<float> out(n);
    code(bytes, out);
    if (first.empty()) {
      first = bytes;
      values = out;
    }
    EXPECT_EQ(bytes, first);
    EXPECT_EQ(std::memcmp(out.data(), values.data(), sizeof(float) * n), 0);
  });
}

}  // namespace espalier::codec
