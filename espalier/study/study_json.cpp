#include "espalier/study/study_json.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/version.h"
#include "espalier/study/columns.h"

namespace espalier::study {

namespace {

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

Json moments_json(const BySeed& values) {
  const auto found = moments(values);
  Json out = Json::object();
  if (!values.empty()) {
    Json& by_seed = out["by_seed"] = Json::object();
    for (const auto& [seed, value] : values) by_seed[std::to_string(seed)] = value;
  }
  out["mean"] = found ? Json(found->mean) : Json(nullptr);
  out["sd"] = found ? or_null(found->sd) : Json(nullptr);
  return out;
}

Json figures_json(const Study& study, const VariantResult& mine, const VariantResult& baseline) {
  std::vector<std::string> names = figure_names();
  for (const std::string& column : study.options.columns)
    if (column.find('.') != std::string::npos) names.push_back(column);
  Json out = Json::object();
  for (const std::string& name : names) {
    const BySeed values = mine.figure(name);
    Json& figure = out[name] = moments_json(values);
    figure["ratio"] = or_null(ratio(values, baseline.figure(name)));
  }
  return out;
}

Json difference_json(const std::string& figure, const VariantResult& mine,
                     const VariantResult& baseline) {
  const auto found = paired_difference(mine.figure(figure), baseline.figure(figure));
  if (!found) return nullptr;
  const double mean = found->moments.mean;
  Json out = {{"n", found->moments.n}, {"mean", mean}, {"low", nullptr}, {"high", nullptr}};
  if (found->half_width) {
    out["low"] = mean - *found->half_width;
    out["high"] = mean + *found->half_width;
  }
  return out;
}

Json target_json(const VariantResult& mine, double target) {
  BySeed rounds, down, up, macs, seconds;
  for (const auto& [seed, cell] : mine.cells) {
    const Evaluation* at = reaches(cell, target);
    if (at == nullptr) continue;
    rounds[seed] = at->round;
    down[seed] = at->bytes_down;
    up[seed] = at->bytes_up;
    macs[seed] = at->macs;
    seconds[seed] = at->seconds;
  }
  return {{"accuracy", target},
          {"reached", rounds.size()},
          {"of", mine.evaluated()},
          {"rounds", moments_json(rounds)},
          {"bytes_down", moments_json(down)},
          {"bytes_up", moments_json(up)},
          {"macs", moments_json(macs)},
          {"seconds", moments_json(seconds)}};
}

const char* state_name(CellState state) {
  return state == CellState::kDone ? "done" : state == CellState::kBegun ? "begun" : "new";
}

}  // namespace

std::vector<MeanEvaluation> mean_curve(const VariantResult& result) {
  std::vector<MeanEvaluation> curve;
  if (result.cells.empty()) return curve;
  size_t shortest = SIZE_MAX;
  for (const auto& [seed, cell] : result.cells) shortest = std::min(shortest, cell.curve.size());
  for (size_t i = 0; i < shortest; ++i) {
    BySeed accuracy, bytes, rounds;
    for (const auto& [seed, cell] : result.cells) {
      accuracy[seed] = cell.curve[i].accuracy;
      bytes[seed] = cell.curve[i].bytes();
      rounds[seed] = cell.curve[i].round;
    }
    curve.push_back({moments(rounds)->mean, moments(bytes)->mean, *moments(accuracy)});
  }
  return curve;
}

std::vector<size_t> pareto_of(const Study& study, const Results& results) {
  std::vector<Point> points;
  std::vector<size_t> of;
  for (size_t v = 0; v < results.variants.size(); ++v) {
    const auto bytes = moments(results.variants[v].figure("bytes"));
    const auto accuracy = moments(results.variants[v].figure(study.options.compare));
    if (!bytes || !accuracy) continue;
    points.push_back({bytes->mean, accuracy->mean});
    of.push_back(v);
  }
  std::vector<size_t> front;
  for (const size_t i : pareto_front(points)) front.push_back(of[i]);
  return front;
}

Json cells_json(const std::vector<Cell>& cells, const std::vector<Found>& found) {
  Json list = Json::array();
  for (size_t c = 0; c < cells.size(); ++c) {
    Json cell = {{"cell", cells[c].label},
                 {"seed", cells[c].seed},
                 {"folder", concat("cells/", found[c].folder.filename().string())},
                 {"configuration", cells[c].identity},
                 {"state", state_name(found[c].state)},
                 {"rounds", cells[c].rounds},
                 {"rounds_done", found[c].rounds_done},
                 {"version", found[c].version},
                 {"build", found[c].build}};
    if (!found[c].why.empty()) cell["why"] = found[c].why;
    list.push_back(std::move(cell));
  }
  return list;
}

Json study_json(const Study& study, const std::vector<Cell>& cells, const std::vector<Found>& found,
                const Results& results) {
  Json out = {{"name", study.options.name}, {"description", study.options.description},
              {"version", version()},       {"build", build_id()},
              {"base", study.options.base}, {"compare", study.options.compare},
              {"seeds", study.seeds},       {"targets", study.options.targets},
              {"only", study.only},         {"assignments", study.assignments},
              {"variants", Json::array()}};
  for (size_t v = 0; v < study.variants.size(); ++v) {
    const Variant& variant = study.variants[v];
    const VariantResult& mine = results.variants[v];
    const VariantResult& baseline = results.variants[variant.baseline];
    Json entry = {{"name", variant.name},
                  {"baseline", study.variants[variant.baseline].name},
                  {"accuracy_key", variant.accuracy_key},
                  {"set", Json::object()},
                  {"left_out", variant.left_out},
                  {"n", mine.cells.size()}};
    for (const Assignment& one : variant.set) entry["set"][one.key] = one.value;
    for (const auto& [seed, error] : mine.failed) entry["failed"][std::to_string(seed)] = error;
    entry["figures"] = figures_json(study, mine, baseline);
    entry["difference"] = variant.baseline == v
                              ? Json(nullptr)
                              : difference_json(study.options.compare, mine, baseline);
    entry["targets"] = Json::array();
    for (const double target : study.options.targets)
      entry["targets"].push_back(target_json(mine, target));
    entry["curve"] = Json::array();
    for (const MeanEvaluation& at : mean_curve(mine)) {
      entry["curve"].push_back({{"round", at.round},
                                {"n", at.accuracy.n},
                                {"accuracy", at.accuracy.mean},
                                {"sd", or_null(at.accuracy.sd)},
                                {"bytes", at.bytes}});
    }
    out["variants"].push_back(std::move(entry));
  }
  out["pareto"] = Json::array();
  for (const size_t v : pareto_of(study, results)) out["pareto"].push_back(study.variants[v].name);
  out["cells"] = cells_json(cells, found);
  out["notes"] = results.notes;
  return out;
}

}  // namespace espalier::study
