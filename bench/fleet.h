#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <set>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/serve/cohort.h"
#include "espalier/serve/pace.h"
#include "espalier/serve/population.h"

// An open population on a virtual clock: the classes with which `espalier serve` says who waits,
// who comes back when and who is asked (serve/pace.h, cohort.h, population.h), and devices that are
// no more than sixteen bytes each. Nothing is trained and nothing is sent.
//
// A device may work while it is idle, charging and unmetered: every local day from noon to noon it
// draws anew when, so that of all devices the share `noon` may at noon and `night` at three in the
// morning, along half cosines between them. Whoever may not when its time has come, comes as soon
// as it may. A device that waits on the line leaves when it may no more, and one that works then
// drops out, as does a share `drop_out` of those that are asked, without a word; they come back
// within the hour.
namespace espalier::bench {

struct FleetOptions {
  uint64_t devices = 1'000'000;  // at most 10^8
  double hours = 24;             // from midnight on; at most 1000
  uint64_t goal = 100;           // updates that close a round
  double period_s = 60;          // rounds open this often at most
  double drop_out = 0.1;         // of those that are asked, below 1
  double work_s = 20;            // median of the time from being asked to the update; lognormal
  double work_sigma = 0.5;
  double noon = 0.05, night = 0.6;  // shares of devices that may work, 0 ≤ noon ≤ night ≤ 1
  double zones_h = 3;               // local times are spread over so many hours
  // As in serve's [server] and [network]; 0: by the measured drop-out.
  double over_selection = 0, min_fraction = 0.8, select_window_s = 60, deadline_s = 600,
         poll_s = 50;
  double new_within_h = 0;   // above 0: nobody has joined yet, and all come within so many hours
  double restart_at_h = -1;  // the server goes then, and is back after outage_s; below 0: never
  double outage_s = 300;
  uint64_t seed = 1;

  // Throws Error, one line that names the option.
  void validate() const;
};

// What happened, in counts and by the minute. asked = updates + late + dropped + lost + at_work.
struct FleetResult {
  uint64_t checkins = 0;    // devices that came and asked for work, on a connection of their own
  uint64_t held = 0;        // of these: waited on the line
  uint64_t sent_away = 0;   // of these: told to come back later
  uint64_t let_go = 0;      // told so after having waited, or after their update
  uint64_t left_line = 0;   // stopped waiting since they may work no more
  uint64_t unanswered = 0;  // tries while the server was away
  uint64_t opened = 0, finished = 0, abandoned = 0, interrupted = 0;  // rounds; by the restart
  uint64_t running = 0;                                               // at the end: 0 or 1
  uint64_t asked = 0, updates = 0, late = 0, dropped = 0, lost = 0, at_work = 0;  // devices
  double drop_out = 0;  // as the server has measured it at the end
  uint64_t events = 0;
  std::vector<uint32_t> checkins_by_second;
  struct Minute {
    uint32_t checkins = 0, sent_away = 0, unanswered = 0, waiting = 0;
    double active = 0;    // P as the server measures it
    double eligible = 0;  // that may work, by the curve
  };
  std::vector<Minute> minutes;
  struct Round {
    double begun_s = 0, opened_s = 0, closed_s = 0;  // it waits for devices from begun_s on
    uint32_t asked = 0, answered = 0;
    bool counted = false;
  };
  std::vector<Round> rounds;                 // that are closed
  std::vector<uint64_t> devices_by_updates;  // how many devices have given 0, 1, … updates
};

// One simulation. The same options give the same result.
class Fleet {
 public:
  explicit Fleet(const FleetOptions& options);
  // Runs to the end; `tell(hours)` is called after each hour of the virtual clock.
  FleetResult run(const std::function<void(double hours)>& tell = {});

  // Seconds [from, to) in which a device may work: the first such time that ends after `now_s`.
  struct Span {
    double from_s = 0, to_s = 0;
  };
  Span next_span(uint32_t device, double now_s) const;
  // The share of devices that may work at `local_hour`.
  double eligible_share(double local_hour) const;

 private:
  enum class State : uint8_t { kAsleep, kWaiting, kWorking, kBreaking };
  struct Device {
    uint32_t due_ms = 0;
    uint32_t round = 0;  // that has asked it last
    uint16_t updates = 0;
    State state = State::kAsleep;
    uint8_t tries = 0;  // while the server is away
    bool joined = false;
  };
  struct Event {
    uint32_t due_ms, device;
    friend bool operator>(const Event& a, const Event& b) {
      return a.due_ms != b.due_ms ? a.due_ms > b.due_ms : a.device > b.device;
    }
  };
  enum class Server : uint8_t { kResting, kSelecting, kRunning, kAway };
  static constexpr double kNever = std::numeric_limits<double>::infinity();

  void schedule(uint32_t device, State state, double at_s);
  void happen(uint32_t device);
  void wake(uint32_t device);
  void poll_over(uint32_t device);
  void work_done(uint32_t device);
  void break_down(uint32_t device);
  // The device asks for work: it waits, or hears when to come back (false).
  bool ask(uint32_t device, bool just_used);
  void try_again(uint32_t device, State state);
  void tick_server();
  void select();
  void open_if_enough();
  void close();
  void go_away();
  void come_back();
  FleetResult::Minute& minute();
  double uniform(double low, double high) { return low + (high - low) * random_.uniform(); }
  double local_s(uint32_t device, double now_s) const;

  const FleetOptions options_;
  Stream random_;
  serve::Pace pace_;
  serve::Cohort cohort_;
  serve::Population population_;
  std::vector<Device> devices_;
  std::vector<std::vector<Event>> seconds_;  // what happens in each, unordered until it comes
  std::priority_queue<Event, std::vector<Event>, std::greater<>> today_;  // of this second
  size_t second_ = 0;
  bool running_ = false;
  double now_s_ = 0, end_s_ = 0;
  std::set<uint64_t> waiting_;
  Server server_ = Server::kSelecting;
  double server_due_s_ = kNever, restart_s_ = kNever, reconnect_s_ = 0;
  uint32_t round_ = 0, lost_rounds_ = 0;  // the last one; those up to lost_rounds_ nobody awaits
  size_t enough_ = 0;
  FleetResult::Round current_;
  FleetResult result_;
};

}  // namespace espalier::bench
