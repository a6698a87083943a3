#include "espalier/strategy/strategy.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier::strategy {

void Strategy::accumulate(const RoundInfo&, uint64_t client, const Update& update,
                          RoundSums& sums) {
  sums.add(client, update);
}

std::vector<std::string> Strategy::update_payloads(const RoundInfo&) const { return {kDelta}; }

void Strategy::check(const RoundInfo& round, const ParameterLayout& layout, double num_samples,
                     const Update& update) const {
  check_payloads(update_payloads(round), layout, num_samples, update);
}

void check_payloads(std::vector<std::string> expected, const ParameterLayout& layout,
                    double num_samples, const Update& update) {
  std::vector<std::string> names;
  for (const Payload& payload : update.payloads) {
    names.push_back(payload.name);
    if (!(payload.values->layout() == layout))
      fail("round/update", "payload '", payload.name, "' has another layout");
    if (!(payload.weight >= 0 && payload.weight <= std::max(1.0, num_samples))) {
      fail("round/update", "payload '", payload.name, "' claims the weight ", payload.weight,
           " for ", num_samples, " samples");
    }
  }
  std::sort(names.begin(), names.end());
  std::sort(expected.begin(), expected.end());
  if (names != expected)
    fail("round/update", "expected ", expected.size(), " payloads, got others or ", names.size());
}

void Strategy::save(ByteWriter&) const {}
void Strategy::load(ByteReader&) {}

const StrategyRow& find_strategy(const std::string& name) {
  std::vector<std::string> known;
  for (const StrategyRow& row : strategy_rows()) {
    if (row.name == name) return row;
    known.push_back(row.name);
  }
  fail("config", unknown_name_message("strategy", name, known));
}

}  // namespace espalier::strategy
