#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <vector>

#include "espalier/base/random.h"

namespace espalier::serve {

struct CohortOptions {
  // So many times the devices that a round needs are asked; 0: as many as the measured drop-out
  // asks for, and 1.3 times as many until it is measured (Bonawitz et al. 2019).
  double over_selection = 0;
  double min_fraction = 0.8;    // of a round's goal has to be there, and to answer
  double select_window_s = 60;  // for which a round waits for all that it would ask
};

// Who takes part in the rounds of an open population. A round has a goal, G updates; it waits until
// M devices are there, or select_window_s and then for at least min_fraction·G; it draws M among
// those that are there; and it closes at G updates.
//
// M is the smallest number of which G answer with 99 %: P(Binomial(M, 1 − d) ≥ G) ≥ 0.99, where d
// is the measured drop-out and one standard error of it, at most 3·G. For G = 100 and d = 6, 10,
// 20, 30 %: 113, 120, 139, 162.
//
// d is the share of the devices asked by the last rounds, a thousand devices or the last round if
// that was larger, whose update has not come, in time or later. The newest round says nothing yet:
// when it closes, many still work for whom it has not waited. What does not come is a drop-out from
// the round after it on and not only when somebody's patience is over: to know the answers at once
// and the silent late would make d too small, M too small, and rounds wait for their deadline.
class Cohort {
 public:
  explicit Cohort(const CohortOptions& options);

  // M for `goal` updates, at least `goal`.
  size_t wanted(size_t goal) const;
  // With fewer there is no round: ⌈min_fraction·goal⌉, at least 1.
  size_t least(size_t goal) const;
  // Whether a round that has waited for `waited_s` begins with the `present` ones.
  bool may_begin(size_t goal, size_t present, double waited_s) const;
  // Those that are asked, out of `present` (ascending): all, or M of them drawn by `key`.
  // Ascending.
  std::vector<uint64_t> draw(Key key, std::span<const uint64_t> present, size_t goal) const;
  // So many updates close a round of `goal` which has asked `asked` devices.
  static size_t enough(size_t goal, size_t asked) { return goal < asked ? goal : asked; }
  // Whether a round with `answered` of the `enough` updates counts.
  bool counts(size_t answered, size_t enough) const;

  // ---- what became of those that were asked
  // A round begins with them.
  void ask(std::span<const uint64_t> clients);
  // Its update has come, for the round that has asked it last, or too late for it; or it was on its
  // way when it was told to drop the task.
  void answered(uint64_t client);
  // It never heard that it was asked.
  void withdrawn(uint64_t client);
  // d; 0 until it is measured.
  double drop_out() const;
  // Whether as many devices were asked as say something for a round of `goal`.
  bool measured(size_t goal) const;

  // M for G answers with 99 % when each of M drops out with probability `drop_out`, below 1.
  static size_t needed(size_t goal, double drop_out);

 private:
  struct Round {
    size_t asked = 0, answered = 0;
  };
  Round* forget(uint64_t client);
  Round known() const;  // of all rounds but the newest

  CohortOptions options_;
  std::deque<Round> rounds_;            // the last ones, the newest at the end
  uint64_t begun_ = 0;                  // rounds ever
  std::map<uint64_t, uint64_t> asked_;  // the round, counted from 1, that awaits the client
};

}  // namespace espalier::serve
