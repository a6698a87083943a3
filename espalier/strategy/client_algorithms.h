#pragma once

#include "espalier/client/algorithm.h"

namespace espalier::strategy {

// The client halves of all strategies, by name, and the statistics that a round may ask for: what a
// program hands to its sessions. They are linked without any server half. A table stays as it is;
// any thread.
client::AlgorithmTable client_algorithms();
// One more, of the program's own, for tables that are asked for from now on. Throws Error for a
// name that is taken, and for the 65th row.
void register_client_algorithm(client::AlgorithmRow row);

}  // namespace espalier::strategy
