#include "espalier/base/error.h"
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

namespace {

constexpr size_t kMostRows = 256;

std::vector<StrategyRow> built_in() {
  return {
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
}

std::vector<StrategyRow>& all() {
  static std::vector<StrategyRow> rows = [] {
    std::vector<StrategyRow> made = built_in();
    made.reserve(kMostRows);  // rows stay where they are
    return made;
  }();
  return rows;
}

}  // namespace

const std::vector<StrategyRow>& strategy_rows() { return all(); }

void register_strategy(StrategyRow row) {
  static const size_t own = built_in().size();
  std::vector<StrategyRow>& rows = all();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].name != row.name) continue;
    if (i < own) fail("strategy", "\"", row.name, "\" is built in; choose another name");
    rows[i] = std::move(row);
    return;
  }
  if (rows.size() == kMostRows)
    fail("strategy", "at most ", kMostRows, " strategies can be registered");
  rows.push_back(std::move(row));
}

}  // namespace espalier::strategy
