#pragma once

#include "espalier/data/load.h"

// Data sets that are drawn. Every sample is a function of the key and its index alone, so that more
// samples, or more test samples, never change the others.
//
// Without clients: a prototype per class, standard normal (images: constant on blocks of 4×4
// pixels, so that convolutions and small shifts keep it), plus noise·N(0, 1); labels uniform.
//
// With K clients, after Synthetic(α, β) of Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated
// optimization in heterogeneous networks", 2020: client k labels by argmax(W_k x + b_k), W_k and
// b_k ~ N(u_k, 1), u_k ~ N(0, α); its inputs are x ~ N(v_k, Σ), Σ_jj = j^-1.2, v_k,j ~ N(B_k, 1),
// B_k ~ N(0, β). Differences: client sizes follow a log-normal popularity of the samples' owners
// (each client has at least one training sample) in place of a log-normal count per client, and
// test samples come from the same clients.
//
// A shape of three numbers gives uint8 images: the values divided by their overall deviation, ±4
// deviations over 0…255, and normalized back when gathered.
namespace espalier::data {

LoadedData load_synthetic(const DataOptions& options, Key key);

}  // namespace espalier::data
