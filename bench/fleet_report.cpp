#include "bench/fleet_report.h"

#include <algorithm>
#include <numeric>

#include "bench/fleet_assets.h"
#include "bench/harness.h"
#include "espalier/report/escape.h"
#include "espalier/report/human.h"
#include "espalier/report/page.h"
#include "espalier/report/text_table.h"

namespace espalier::bench {

namespace {

using report::human_count;
using report::human_percent;
using report::human_seconds;

double share(uint64_t part, uint64_t all) {
  return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
}

// The number of updates that a fraction `q` of the devices does not exceed.
size_t updates_at(const FleetResult& result, double q) {
  const auto all = std::accumulate(result.devices_by_updates.begin(),
                                   result.devices_by_updates.end(), uint64_t{0});
  uint64_t sum = 0;
  for (size_t updates = 0; updates < result.devices_by_updates.size(); ++updates) {
    sum += result.devices_by_updates[updates];
    if (static_cast<double>(sum) >= q * static_cast<double>(all)) return updates;
  }
  return 0;
}

struct Times {
  std::vector<double> whole, waiting, working, asked;
};

Times times_of(const FleetResult& result) {
  Times times;
  for (const FleetResult::Round& round : result.rounds) {
    times.whole.push_back(round.closed_s - round.begun_s);
    times.waiting.push_back(round.opened_s - round.begun_s);
    times.working.push_back(round.closed_s - round.opened_s);
    times.asked.push_back(round.asked);
  }
  return times;
}

double at(const std::vector<double>& values, double q) {
  return values.empty() ? 0 : quantile(values, q);
}

std::vector<double> checkins_of(const FleetResult& result) {
  return {result.checkins_by_second.begin(), result.checkins_by_second.end()};
}

}  // namespace

Json fleet_figures(const FleetOptions& options, const FleetResult& result) {
  const std::vector<double> checkins = checkins_of(result);
  const Times times = times_of(result);
  return {
      {"devices", options.devices},
      {"hours", options.hours},
      {"goal", options.goal},
      {"seed", options.seed},
      {"checkins", result.checkins},
      {"checkins_per_s_mean", static_cast<double>(result.checkins) / (options.hours * 3600)},
      {"checkins_per_s_p99", at(checkins, 0.99)},
      {"checkins_per_s_max", at(checkins, 1)},
      {"held", result.held},
      {"sent_away", result.sent_away},
      {"sent_away_share", share(result.sent_away, result.checkins)},
      {"let_go", result.let_go},
      {"left_line", result.left_line},
      {"unanswered", result.unanswered},
      {"rounds_opened", result.opened},
      {"rounds_finished", result.finished},
      {"rounds_abandoned", result.abandoned},
      {"rounds_interrupted", result.interrupted},
      {"rounds_running", result.running},
      {"round_seconds_p50", at(times.whole, 0.5)},
      {"round_seconds_p99", at(times.whole, 0.99)},
      {"selection_seconds_p50", at(times.waiting, 0.5)},
      {"selection_seconds_p99", at(times.waiting, 0.99)},
      {"work_seconds_p50", at(times.working, 0.5)},
      {"work_seconds_p99", at(times.working, 0.99)},
      {"asked", result.asked},
      {"asked_per_round_p50", at(times.asked, 0.5)},
      {"updates", result.updates},
      {"late", result.late},
      {"dropped", result.dropped},
      {"lost", result.lost},
      {"at_work", result.at_work},
      {"drop_out_measured", result.drop_out},
      {"never_share", result.devices_by_updates.empty()
                          ? 0
                          : share(result.devices_by_updates[0], options.devices)},
      {"updates_p50", updates_at(result, 0.5)},
      {"updates_p90", updates_at(result, 0.9)},
      {"updates_p99", updates_at(result, 0.99)},
      {"updates_max", updates_at(result, 1)},
      {"events", result.events},
  };
}

std::string fleet_table(const FleetOptions& options, const FleetResult& result) {
  const Json f = fleet_figures(options, result);
  const auto number = [&](const char* key) { return f.at(key).get<double>(); };
  const auto count = [&](const char* key) { return std::to_string(f.at(key).get<uint64_t>()); };
  const auto seconds = [&](const char* key) { return human_seconds(number(key)); };
  const auto pair = [](const std::string& a, const std::string& b) { return a + " / " + b; };
  return report::text_table({
      {concat(options.devices, " devices, ", options.hours, " h, ", options.goal,
              " updates a round"),
       ""},
      {"check-ins per second: mean / p99 / max",
       text("%.2f / %.0f / %.0f", number("checkins_per_s_mean"), number("checkins_per_s_p99"),
            number("checkins_per_s_max"))},
      {"check-ins; sent away at once",
       pair(count("checkins"), human_percent(number("sent_away_share")))},
      {"tries while the server was away", count("unanswered")},
      {"rounds opened / finished / abandoned / interrupted",
       concat(count("rounds_opened"), " / ", count("rounds_finished"), " / ",
              count("rounds_abandoned"), " / ", count("rounds_interrupted"))},
      {"time of a round: p50 / p99",
       pair(seconds("round_seconds_p50"), seconds("round_seconds_p99"))},
      {"  of it waiting for devices: p50 / p99",
       pair(seconds("selection_seconds_p50"), seconds("selection_seconds_p99"))},
      {"  of it work: p50 / p99", pair(seconds("work_seconds_p50"), seconds("work_seconds_p99"))},
      {"asked; updates / late / dropped / lost",
       concat(count("asked"), "; ", count("updates"), " / ", count("late"), " / ", count("dropped"),
              " / ", count("lost"))},
      {"drop-out as measured; asked in a round (p50)",
       pair(human_percent(number("drop_out_measured")),
            text("%.0f", number("asked_per_round_p50")))},
      {"devices that gave no update", human_percent(number("never_share"))},
      {"updates of a device: p50 / p90 / p99 / max",
       concat(count("updates_p50"), " / ", count("updates_p90"), " / ", count("updates_p99"), " / ",
              count("updates_max"))},
  });
}

std::string fleet_page(const FleetOptions& options, const FleetResult& result) {
  const Json f = fleet_figures(options, result);
  const auto card = [](const std::string& label, const std::string& value,
                       const std::string& detail) {
    return concat("<div class=\"card\"><div class=\"label\">", label, "</div><div class=\"value\">",
                  value, "</div><div class=\"detail\">", detail, "</div></div>");
  };
  const auto number = [&](const char* key) { return f.at(key).get<double>(); };
  report::Page page;
  page.title = concat("A fleet of ", human_count(static_cast<double>(options.devices)), " devices");
  page.kind = "fleet simulation";
  page.subtitle = concat(
      "<p class=\"chips\"><span>hours <b>", options.hours, "</b></span><span>updates a round <b>",
      options.goal, "</b></span><span>a round every <b>", human_seconds(options.period_s),
      "</b></span><span>drop-out <b>", human_percent(options.drop_out),
      "</b></span><span>may work <b>", human_percent(options.noon), " at noon, ",
      human_percent(options.night), " at 3 a.m.</b></span>",
      options.restart_at_h < 0 ? std::string()
                               : concat("<span>restart <b>at ", options.restart_at_h, " h, ",
                                        human_seconds(options.outage_s), "</b></span>"),
      "<span>seed <b>", options.seed, "</b></span></p>");
  page.body = concat(
      "<section class=\"cards\">",
      card("Check-ins a second", text("%.1f", number("checkins_per_s_mean")),
           text("p99 %.0f, most %.0f", number("checkins_per_s_p99"), number("checkins_per_s_max"))),
      card("Rounds finished", std::to_string(result.finished),
           concat("of ", result.opened, "; ", result.abandoned, " abandoned, ", result.interrupted,
                  " interrupted")),
      card("Time of a round", human_seconds(number("round_seconds_p50")),
           concat("p99 ", human_seconds(number("round_seconds_p99")))),
      card("Sent away at once", human_percent(number("sent_away_share")),
           concat(human_percent(number("never_share")), " of the devices gave no update")),
      "</section>\n<section><h2>Over the day</h2><div class=\"grid fleet\" "
      "id=\"charts\"></div></section>");
  Json minutes = {{"checkins", Json::array()},   {"sent_away", Json::array()},
                  {"unanswered", Json::array()}, {"waiting", Json::array()},
                  {"active", Json::array()},     {"eligible", Json::array()}};
  for (const FleetResult::Minute& minute : result.minutes) {
    minutes["checkins"].push_back(minute.checkins / 60.0);
    minutes["sent_away"].push_back(minute.sent_away / 60.0);
    minutes["unanswered"].push_back(minute.unanswered / 60.0);
    minutes["waiting"].push_back(minute.waiting);
    minutes["active"].push_back(minute.active);
    minutes["eligible"].push_back(minute.eligible);
  }
  Json rounds = {{"at", Json::array()}, {"waiting", Json::array()}, {"working", Json::array()}};
  for (const FleetResult::Round& round : result.rounds) {
    rounds["at"].push_back(round.opened_s);
    rounds["waiting"].push_back(round.opened_s - round.begun_s);
    rounds["working"].push_back(round.closed_s - round.opened_s);
  }
  Json updates = Json::array();
  for (const uint64_t devices : result.devices_by_updates)
    updates.push_back(share(devices, options.devices));
  page.data = {{"minutes", std::move(minutes)},
               {"rounds", std::move(rounds)},
               {"updates", std::move(updates)}};
  page.style = "\n.grid.fleet { grid-template-columns: repeat(2, minmax(0, 1fr)); }";
  page.script = assets::kFleetScript;
  page.footer =
      "Devices on a virtual clock, with the classes that <code>espalier serve</code> uses.";
  return report::page(page);
}

}  // namespace espalier::bench
