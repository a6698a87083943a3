#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier::serve {

struct PopulationOptions {
  double memory_s = 172'800;      // who was heard of within it counts; two days
  double longest_gap_s = 86'400;  // what counts at most as a device's time between two check-ins
};

// How many devices of an open population there are just now, measured by who asks for work: P in
// pace.h. Two measures, of which the smaller one counts:
//   heard    the devices that have asked within `memory_s`;
//   awake    (sum over the check-ins of the last hour of the time since that device's last one) /
//            (an hour): a device that comes every g seconds comes 3600/g times an hour and adds g
//            each time, so that each device that is about adds one, however often it comes.
// By day most of those that were heard of at night are in somebody's pocket; `awake` says so within
// an hour. The first time of a device adds `longest_gap_s`: its time before is not known.
//
// No clock and no thread: times are seconds since any beginning (0 or more), the same one in every
// call, and do not decrease. Memory: 4 bytes for each number below the largest client's.
class Population {
 public:
  explicit Population(const PopulationOptions& options = {});

  // A client that has joined before `now_s`, nobody knows when it was here last: after a restart.
  void know(uint64_t client, double now_s);
  // A client asks for work.
  void seen(uint64_t client, double now_s);

  // P. Until an hour has passed since the first call: those that were heard of.
  double active(double now_s) const;
  // Of all that active() has counted once: those heard of within memory_s, to an hour.
  uint64_t heard(double now_s) const;

 private:
  // When a client was here last, in whole seconds; `asked` is false of who is only known.
  struct Last {
    uint32_t seconds : 30 = 0;
    uint32_t heard : 1 = 0, asked : 1 = 0;
  };
  static constexpr size_t kSlots = 12;  // of the last hour
  static constexpr double kSlotSeconds = 300;
  struct Slot {
    int64_t number = -1;
    double gaps_s = 0;
  };
  Last& move_to(uint64_t client, double now_s);

  PopulationOptions options_;
  double first_s_ = -1;
  std::vector<Last> last_;               // by client
  std::vector<uint64_t> heard_by_hour_;  // by hour
  std::array<Slot, kSlots> slots_;
};

}  // namespace espalier::serve
