#pragma once

#include <cstddef>
#include <string>

// The floor that the simulator is measured against: a plain libtorch loop (torch::nn modules,
// autograd, torch::optim::SGD) that does the same SGD steps for the same number of clients, with
// `threads` threads that train one client each.
namespace espalier::bench {

struct BareLoop {
  std::string model = "cnn";  // cnn: 5×5-32, 5×5-64, fc 512 on 1×28×28; mlp: 784-64-10
  size_t clients = 20, samples_per_client = 600, batch_size = 10;
  size_t threads = 1;
};

// Seconds for one local epoch of every client, parameters loaded before and averaged after; data
// are random and in memory.
double run_bare_loop(const BareLoop& loop);

}  // namespace espalier::bench
