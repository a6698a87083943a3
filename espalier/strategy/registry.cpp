#include "espalier/strategy/fedavg.h"
#include "espalier/strategy/fedgkt.h"
#include "espalier/strategy/fednova.h"
#include "espalier/strategy/fedprox.h"
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
  };
  return rows;
}

}  // namespace espalier::strategy
