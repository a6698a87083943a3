#pragma once

#include <cstdint>

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

}  // namespace espalier::codec
