#pragma once

#include <cstddef>
#include <utility>

#include "espalier/nn/small_batch.h"

namespace espalier::nn {

// Calls body.operator()<B>() for the B that equals `batch`, of 1 to kMax.
template <size_t kMax, class Body>
void with_batch(size_t batch, const Body& body) {
  [&]<size_t... kSizes>(std::index_sequence<kSizes...>) {
    static_cast<void>(
        ((batch == kSizes + 1 ? (body.template operator()<kSizes + 1>(), true) : false) || ...));
  }
  (std::make_index_sequence<kMax>());
}

// Calls body.operator()<B, kInput, kUpdate>(): whether the input's gradient is wanted, and whether
// the weights are updated or their gradient is written.
template <size_t kMax, class Body>
void with_backward(size_t batch, const LinearBackward& data, const Body& body) {
  with_batch<kMax>(batch, [&]<size_t B>() {
    const bool input = data.dx != nullptr, update = data.gradient == nullptr;
    if (input && update) return body.template operator()<B, true, true>();
    if (input) return body.template operator()<B, true, false>();
    if (update) return body.template operator()<B, false, true>();
    body.template operator()<B, false, false>();
  });
}

}  // namespace espalier::nn
