#pragma once

#include <cstddef>
#include <utility>

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

}  // namespace espalier::nn
