#pragma once

#include <cstddef>
#include <deque>
#include <optional>

namespace espalier::serve {

struct PaceOptions {
  double oversupply = 3;      // c: check-ins for each device that a round wants, at least 1
  double shortest_s = 10;     // nobody is told to come back sooner,
  double longest_s = 86'400;  // or later
  double line_s = 60;         // who is wanted within it waits on the line
  // Until the time between two rounds is measured: what counts as it, and so many may wait on the
  // line, whoever is wanted. Rounds may take a second, and who was sent away is missed then.
  double first_period_s = 60;
  size_t first_line = 1000;
  double reconnects_per_s = 200;  // after a restart: what all devices together may come to
};

// Seconds from now between which a device draws, uniformly, when it comes back.
struct Window {
  double min_s = 0, max_s = 0;
};

// When the devices of an open population are to come, so that a round finds as many as it wants and
// the server is not asked by all the others meanwhile (Bonawitz et al. 2019, section 2.3: "pace
// steering"). With P devices about, M wanted by a round and `period` seconds from one round's
// opening to the next, c·M check-ins a period are enough, so that a device comes every
//   T = P·period / (c·M)   seconds, within [shortest_s, longest_s].
//
// Many (P ≥ c·M and T ≥ shortest_s): the devices are spread. Up to M wait on the line; the others,
// and who has just been used, draw from [¾T, 1¼T], which has the mean T and spreads a crowd that
// has come at one time over half of T. Cut to longest_s, the window is shorter and its mean is
// below T: at the limit of a day [18 h, 24 h].
//
// Few: they come together. Who asks while the next round is near waits on the line; when it is
// further than line_s away, the window is the last line_s before the earliest time at which the
// round may open, by the shortest of the last periods.
//
// Example: P = 10^6, M = 130, period 60 s: T = 42.7 h, cut to 24 h; 10^6 / 24 h = 11.6 check-ins a
// second, where the rounds need c·M/period = 6.5.
//
// Differences from the paper: it estimates the population's size by the time of the day; here it is
// measured (population.h). No clock and no thread: times are seconds of any clock that does not go
// back.
class Pace {
 public:
  explicit Pace(const PaceOptions& options = {});

  // A round waits for `wanted` devices from now on: whoever comes stays.
  void selecting(size_t wanted);
  // It has them, and opens.
  void opened(double now_s);
  // What was selected was no round: an evaluation.
  void not_opened();

  struct Asking {
    double population = 0;   // P
    size_t waiting = 0;      // others on the line that have not just been used
    bool just_used = false;  // it has taken part in a round that is over
  };
  // What a device hears that asks for work when there is none for it: nothing (it waits on the
  // line), or when to come back.
  std::optional<Window> answer(const Asking& asking, double now_s) const;

  // T, and whether devices are spread by it. Before the first round wants any: 0, and no.
  double spacing_s(double population) const;
  bool spreads(double population) const;
  // Mean of the last periods.
  double period_s() const;
  // M of the last round, 0 before the first.
  size_t wanted() const { return wanted_; }

  // Within which a device that loses the server first tries again: [0, P/reconnects_per_s], at most
  // longest_s. Not less than what a client does anyway: see docs/protocol.md.
  Window reconnect(double population) const;

 private:
  double raw_spacing_s(double population) const;
  // Seconds until the next round may open; nothing when nobody knows.
  std::optional<double> until_opening_s(double now_s) const;

  PaceOptions options_;
  size_t wanted_ = 0, selecting_ = 0;  // selecting_: of a round that waits for devices
  std::optional<double> opened_s_;
  std::deque<double> periods_s_;  // the last ones
};

}  // namespace espalier::serve
