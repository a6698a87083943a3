#pragma once

#include <cstddef>
#include <cstdint>
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
  double patience_s = 3600;     // after which who was asked and is not heard of has dropped out
};

// Who takes part in the rounds of an open population. A round has a goal, G updates; it waits until
// M devices are there, or select_window_s and then for at least min_fraction·G; it draws M among
// those that are there; and it closes at G updates.
//
// M is the smallest number of which G answer with 99 %: P(Binomial(M, 1 − d) ≥ G) ≥ 0.99, where d
// is the measured drop-out, at most 3·G. For G = 100 and d = 6, 10, 20, 30 %: 113, 120, 139, 162.
// d counts devices, not answers that a round has waited for: who answers after the round has closed
// has not dropped out. It forgets: the last thousand devices or so count.
//
// No clock and no thread: times are seconds of any clock that does not go back.
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
  // They are asked; whoever was asked more than patience_s ago and is not heard of has dropped out.
  void ask(std::span<const uint64_t> clients, double now_s);
  // Its update has come, for a round that waits for it or too late.
  void answered(uint64_t client) { settle(client, false); }
  // It says that it has failed, or asks for work and has not answered. Nothing when it was not
  // asked.
  void dropped(uint64_t client) { settle(client, true); }
  // It never heard of it: the round was over before.
  void withdrawn(uint64_t client) { asked_.erase(client); }
  // d; 0 until it is measured.
  double drop_out() const;
  // Whether as many devices are settled as a round of `goal` needs.
  bool measured(size_t goal) const;

  // M for G answers with 99 % when each of M drops out with probability `drop_out`, below 1.
  static size_t needed(size_t goal, double drop_out);

 private:
  void settle(uint64_t client, bool dropped);
  void learn(bool dropped);

  CohortOptions options_;
  std::map<uint64_t, double> asked_;      // when; not settled
  double settled_ = 0, dropped_out_ = 0;  // weights
};

}  // namespace espalier::serve
