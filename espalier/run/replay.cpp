#include "espalier/run/replay.h"

#include <algorithm>
#include <sstream>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/base/options.h"

namespace espalier::run {

Replay read_replay(const std::filesystem::path& events) {
  Replay replay;
  std::map<std::pair<uint32_t, uint32_t>, Replay::Part> open;
  std::istringstream lines(read_text_file(events));
  std::string line;
  for (uint64_t number = 1; std::getline(lines, line); ++number) {
    const Json event = Json::parse(line, nullptr, false);
    if (event.is_discarded()) continue;  // half a line, as a crash leaves it
    try {
      const std::string what = event.at("event");
      if (what != "opened" && what != "closed") continue;
      const std::pair<uint32_t, uint32_t> id(event.at("round"), event.at("exchange"));
      if (what == "opened") {
        open[id] = {event.at("clients").get<std::vector<uint64_t>>(), {}, {}};
      } else if (const auto found = open.find(id);
                 found != open.end() && event.value("counted", true)) {
        const auto missing = event.at("missing").get<std::vector<uint64_t>>();
        const auto unasked = event.value("unasked", std::vector<uint64_t>());
        found->second.missing = {missing.begin(), missing.end()};
        found->second.unasked = {unasked.begin(), unasked.end()};
        replay.exchanges.insert_or_assign(id, found->second);
      }
    } catch (const Json::exception&) {
      fail("simulate", events.string(), ", line ", number,
           ": expected an event of `espalier serve` (server/events.jsonl of its run)");
    }
  }
  if (replay.exchanges.empty()) fail("simulate", events.string(), " has no round to be repeated");
  return replay;
}

std::vector<uint64_t> ReplayBackend::select(Key, std::span<const uint64_t>, uint64_t) {
  if (next_ == replay_.exchanges.end())
    fail("simulate", "the log to be repeated ends after round ",
         replay_.exchanges.rbegin()->first.first, "; lower rounds to that");
  return next_->second.clients;
}

void ReplayBackend::run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) {
  const round::ExchangeId id = traffic.id();
  next_ = replay_.exchanges.upper_bound({id.round, id.number});
  const auto found = replay_.exchanges.find({id.round, id.number});
  // What was asked of other clients than here was another run's.
  if (found == replay_.exchanges.end() ||
      !std::is_permutation(clients.begin(), clients.end(), found->second.clients.begin(),
                           found->second.clients.end())) {
    fail("simulate", "round ", id.round, ", exchange ", id.number,
         " of the log to be repeated is of other clients; it belongs to another configuration");
  }
  std::vector<uint64_t> answering;
  for (const uint64_t client : clients) {
    if (found->second.missing.contains(client)) {
      // What went to it was sent, for nothing; nothing is heard of it.
      if (!found->second.unasked.contains(client)) static_cast<void>(traffic.task(client));
    } else {
      answering.push_back(client);
    }
  }
  inner_.run(answering, traffic);
}

}  // namespace espalier::run
