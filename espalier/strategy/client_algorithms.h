#pragma once

#include "espalier/client/algorithm.h"

namespace espalier::strategy {

// The client halves of all strategies, by name, and the statistics that a round may ask for: what a
// program hands to its sessions. They are linked without any server half. Constant; any thread.
client::AlgorithmTable client_algorithms();

}  // namespace espalier::strategy
