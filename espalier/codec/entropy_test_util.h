#pragma once

#include <gtest/gtest.h>
#include <hwy/highway.h>

// For tests of kernels with run-time dispatch.
namespace espalier::codec {

// Runs `body` once with every instruction set that was compiled in and that this processor has,
// then restores the best.
template <class Body>
void on_every_target(Body body) {
  const int64_t available = (hwy::SupportedTargets() | HWY_STATIC_TARGET) & HWY_TARGETS;
  for (int64_t rest = available; rest != 0; rest &= rest - 1) {
    const int64_t target = rest & -rest;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::GetChosenTarget().Update(target);
    body();
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace espalier::codec
