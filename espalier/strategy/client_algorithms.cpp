#include "espalier/strategy/client_algorithms.h"

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

client::AlgorithmTable client_algorithms() {
  using client::algorithm_row;
  static const std::vector<client::AlgorithmRow> rows = {
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
  return rows;
}

}  // namespace espalier::strategy
