#include "espalier/strategy/adp.h"
#include "espalier/strategy/fedavg.h"
#include "espalier/strategy/fedgkt.h"
#include "espalier/strategy/fednova.h"
#include "espalier/strategy/fedprox.h"
#include "espalier/strategy/pruning.h"
#include "espalier/strategy/scaffold.h"
#include "espalier/strategy/server_optimizers.h"
#include "espalier/strategy/strategy.h"

namespace espalier::strategy {

const std::vector<StrategyRow>& strategy_rows() {
  static const std::vector<StrategyRow> rows = {
      strategy_row<FedAvg>("fedavg", "Federated Averaging (McMahan et al. 2017)"),
      strategy_row<FedProx>("fedprox", "FedAvg with a proximal term (Li et al. 2020)"),
      strategy_row<FedAvgM>("fedavgm", "FedAvg with server momentum (Hsu et al. 2019)"),
      strategy_row<FedAdam>("fedadam", "FedAvg with Adam on the server (Reddi et al. 2021)"),
      strategy_row<FedYogi>("fedyogi", "FedAvg with Yogi on the server (Reddi et al. 2021)"),
      strategy_row<Scaffold>("scaffold",
                             "Control variates against client drift (Karimireddy et al. 2020)"),
      strategy_row<FedNova>("fednova",
                            "Normalized averaging for uneven local work (Wang et al. 2020)"),
      strategy_row<FedGkt>("fedgkt",
                           "Group knowledge transfer to a large server net (He et al. 2020)"),
      strategy_row<AutoFlip>(
          "autoflip", "Pruning informed by an exploration of the loss (Internò et al. 2024)"),
      strategy_row<Adp>("adp", "Adaptive dynamic pruning by salience per sample (Yu et al. 2021)"),
      strategy_row<Pruning>("pruning",
                            "Pruning by magnitude, at random, or as PruneFL; one shot or gradual"),
  };
  return rows;
}

}  // namespace espalier::strategy
