#include "espalier/strategy/client_algorithms.h"

#include "espalier/base/error.h"
#include "espalier/client/evaluation.h"
#include "espalier/client/recall.h"
#include "espalier/client/statistics.h"
#include "espalier/strategy/adp_client.h"
#include "espalier/strategy/exploration_client.h"
#include "espalier/strategy/fedavg_client.h"
#include "espalier/strategy/fedgkt_client.h"
#include "espalier/strategy/fednova_client.h"
#include "espalier/strategy/fedprox_client.h"
#include "espalier/strategy/pruning_client.h"
#include "espalier/strategy/scaffold_client.h"

namespace espalier::strategy {

namespace {

constexpr size_t kMostRows = 64;

std::vector<client::AlgorithmRow> built_in() {
  using client::algorithm_row;
  return {
      algorithm_row<FedAvgClient>(FedAvgClient::kName),
      algorithm_row<FedProxClient>(FedProxClient::kName),
      algorithm_row<ScaffoldClient>(ScaffoldClient::kName),
      algorithm_row<FedNovaClient>(FedNovaClient::kName),
      algorithm_row<FedGktClient>(FedGktClient::kName),
      algorithm_row<PruningClient>(PruningClient::kName),
      algorithm_row<ExplorationClient>(ExplorationClient::kName),
      AdpClient::row(),
      algorithm_row<client::Statistics>(client::Statistics::kName),
      algorithm_row<client::Evaluation>(client::Evaluation::kName),
      algorithm_row<client::Recall>(client::Recall::kName),
  };
}

std::vector<client::AlgorithmRow>& all() {
  static std::vector<client::AlgorithmRow> rows = [] {
    std::vector<client::AlgorithmRow> made = built_in();
    made.reserve(kMostRows);  // tables that were handed out point into it
    return made;
  }();
  return rows;
}

}  // namespace

client::AlgorithmTable client_algorithms() { return all(); }

void register_client_algorithm(client::AlgorithmRow row) {
  std::vector<client::AlgorithmRow>& rows = all();
  for (const client::AlgorithmRow& known : rows)
    if (known.name == row.name)
      fail("strategy", "a client half \"", row.name, "\" is there already");
  if (rows.size() == kMostRows) fail("strategy", "at most ", kMostRows, " client halves");
  rows.push_back(std::move(row));
}

}  // namespace espalier::strategy
