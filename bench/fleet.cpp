#include "bench/fleet.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "espalier/base/error.h"

namespace espalier::bench {

namespace {

constexpr double kHour = 3600, kDay = 24 * kHour;
// The curve of a local day, in hours after noon.
constexpr double kRise = 15, kFall = 9;
constexpr double kLook = 10;                        // a device looks so often whether it may work
constexpr double kBackAfter = 60, kBackBy = kHour;  // who has dropped out
constexpr double kLongestRetry = 300;

serve::PaceOptions pace_of(const FleetOptions& options) {
  serve::PaceOptions pace;
  pace.first_period_s = options.period_s;
  return pace;
}

serve::CohortOptions cohort_of(const FleetOptions& options) {
  return {options.over_selection, options.min_fraction, options.select_window_s};
}

}  // namespace

void FleetOptions::validate() const {
  const auto within = [](const char* name, double value, double low, double high) {
    if (!(value >= low && value <= high))
      fail("fleet_sim", "--", name, ": expected ", low, " to ", high, ", got ", value);
  };
  within("devices", static_cast<double>(devices), 1, 1e8);
  within("hours", hours, 0.01, 1000);
  within("goal", static_cast<double>(goal), 1, 1e6);
  within("period-s", period_s, 0, 86'400);
  within("drop-out", drop_out, 0, 0.99);
  within("work-s", work_s, 0.001, 86'400);
  within("work-sigma", work_sigma, 0, 5);
  within("night", night, 0, 1);
  within("noon", noon, 0, night);
  within("zones-h", zones_h, 0, 24);
  if (over_selection != 0) within("over-selection", over_selection, 1, 100);
  within("min-fraction", min_fraction, 0, 1);
  within("select-window-s", select_window_s, 0, 86'400);
  within("deadline-s", deadline_s, 1, 86'400);
  within("poll-s", poll_s, 1, 3600);
  within("new-within-h", new_within_h, 0, 1000);
  if (restart_at_h >= 0) within("restart-at", restart_at_h, 0, hours);
  within("outage-s", outage_s, 1, 86'400);
}

Fleet::Fleet(const FleetOptions& options)
    : options_((options.validate(), options)),
      random_(Key(options.seed).child(1)),
      pace_(pace_of(options)),
      cohort_(cohort_of(options)),
      devices_(options.devices),
      end_s_(options.hours * kHour) {
  const auto seconds = static_cast<size_t>(std::ceil(end_s_));
  seconds_.resize(seconds);
  result_.checkins_by_second.resize(seconds);
  result_.minutes.resize((seconds + 59) / 60);
  if (options_.restart_at_h >= 0) restart_s_ = options_.restart_at_h * kHour;
  select();
  // A fleet that has run before is spread already.
  const auto population = static_cast<double>(options_.devices);
  const bool fresh = options_.new_within_h > 0;
  const double within = fresh                       ? options_.new_within_h * kHour
                        : pace_.spreads(population) ? pace_.spacing_s(population)
                                                    : options_.period_s;
  for (uint32_t device = 0; device < devices_.size(); ++device) {
    if (!fresh) {
      devices_[device].joined = true;
      population_.know(device, 0);
    }
    schedule(device, State::kAsleep, uniform(0, within));
  }
}

double Fleet::local_s(uint32_t device, double now_s) const {
  // Local time in seconds after noon of some day, not negative.
  const double zone =
      static_cast<double>(philox4x32({device, 0, 0, 1}, options_.seed)[0]) * 0x1p-32;
  return now_s + kDay / 2 + (zone - 0.5) * options_.zones_h * kHour + kDay;
}

Fleet::Span Fleet::next_span(uint32_t device, double now_s) const {
  const double local = local_s(device, now_s);
  const double shift = local - now_s;
  for (auto day = static_cast<uint32_t>(local / kDay);; ++day) {
    const double begin = day * kDay - shift;
    if (begin > end_s_) return {kNever, kNever};
    const double draw =
        static_cast<double>(philox4x32({device, day, 0, 2}, options_.seed)[0]) * 0x1p-32;
    if (draw >= options_.night) continue;
    Span span{begin, begin + kDay};
    if (draw >= options_.noon) {
      const double height = (draw - options_.noon) / (options_.night - options_.noon);
      const double turn = std::acos(1 - 2 * height) / std::numbers::pi;
      span = {begin + kRise * turn * kHour, begin + (kRise + kFall * (1 - turn)) * kHour};
    }
    if (span.to_s > now_s) return span;
  }
}

double Fleet::eligible_share(double local_hour) const {
  const double after_noon = std::fmod(local_hour + 12, 24);
  const double turn = after_noon < kRise ? after_noon / kRise : 1 - (after_noon - kRise) / kFall;
  return options_.noon +
         (options_.night - options_.noon) * (1 - std::cos(std::numbers::pi * turn)) / 2;
}

FleetResult::Minute& Fleet::minute() { return result_.minutes[second_ / 60]; }

// A device has one event at a time: what was planned before is over, and its entry is passed by.
void Fleet::schedule(uint32_t device, State state, double at_s) {
  Device& one = devices_[device];
  one.state = state;
  if (!(at_s < end_s_)) {
    one.due_ms = ~uint32_t{0};
    return;
  }
  // Not in this very millisecond: an entry is known by its time.
  one.due_ms =
      std::max(static_cast<uint32_t>(at_s * 1000), static_cast<uint32_t>(now_s_ * 1000 + 0.5) + 1);
  const size_t second = one.due_ms / 1000;
  if (running_ && second == second_) {
    today_.push({one.due_ms, device});
  } else if (second < seconds_.size()) {
    seconds_[second].push_back({one.due_ms, device});
  }
}

FleetResult Fleet::run(const std::function<void(double hours)>& tell) {
  running_ = true;
  for (second_ = 0; second_ < seconds_.size(); ++second_) {
    std::vector<Event> events = std::move(seconds_[second_]);
    seconds_[second_] = {};
    today_ = decltype(today_)(std::greater<>(), std::move(events));
    const double end = static_cast<double>(second_ + 1);
    while (true) {
      const double device_s = today_.empty() ? kNever : today_.top().due_ms / 1000.0;
      const double server_s = std::min(server_due_s_, restart_s_);
      if (std::min(device_s, server_s) >= end) break;
      if (server_s <= device_s) {
        now_s_ = std::max(now_s_, server_s);
        tick_server();
        continue;
      }
      const Event event = today_.top();
      today_.pop();
      if (devices_[event.device].due_ms != event.due_ms) continue;
      now_s_ = std::max(now_s_, device_s);
      ++result_.events;
      happen(event.device);
    }
    if (second_ % 60 == 59 || second_ + 1 == seconds_.size()) {
      FleetResult::Minute& now = minute();
      now.waiting = static_cast<uint32_t>(waiting_.size());
      now.active = population_.active(end);
      // The mean over the zones, which are many.
      constexpr int kZones = 24;
      for (int zone = 0; zone < kZones; ++zone)
        now.eligible +=
            static_cast<double>(options_.devices) / kZones *
            eligible_share(
                std::fmod(end / kHour + 48 + ((zone + 0.5) / kZones - 0.5) * options_.zones_h, 24));
    }
    if (tell && second_ % 3600 == 3599) tell(end / kHour);
  }
  for (const Device& device : devices_) {
    if (device.state == State::kWorking || device.state == State::kBreaking) ++result_.at_work;
    if (device.updates >= result_.devices_by_updates.size())
      result_.devices_by_updates.resize(device.updates + size_t{1});
    ++result_.devices_by_updates[device.updates];
  }
  result_.running = server_ == Server::kRunning ? 1 : 0;
  result_.drop_out = cohort_.drop_out();
  return std::move(result_);
}

// ---------------------------------------------------------------- devices

void Fleet::happen(uint32_t device) {
  switch (devices_[device].state) {
    case State::kAsleep:
      return wake(device);
    case State::kWaiting:
      return poll_over(device);
    case State::kWorking:
      return work_done(device);
    case State::kBreaking:
      return break_down(device);
  }
}

void Fleet::wake(uint32_t device) {
  const Span span = next_span(device, now_s_);
  if (span.from_s > now_s_)
    return schedule(device, State::kAsleep, span.from_s + uniform(0, kLook));
  if (server_ == Server::kAway) return try_again(device, State::kAsleep);
  devices_[device].tries = 0;
  devices_[device].joined = true;
  ++result_.checkins;
  ++result_.checkins_by_second[second_];
  ++minute().checkins;
  if (ask(device, false)) {
    ++result_.held;
  } else {
    ++result_.sent_away;
    ++minute().sent_away;
  }
}

// As join does: a bound that doubles from a second, or what the server has asked for.
void Fleet::try_again(uint32_t device, State state) {
  ++result_.unanswered;
  ++minute().unanswered;
  uint8_t& tries = devices_[device].tries;
  const double bound = std::max(reconnect_s_, std::min(kLongestRetry, std::exp2(tries)));
  if (tries < 100) ++tries;
  schedule(device, state, now_s_ + uniform(0, bound));
}

bool Fleet::ask(uint32_t device, bool just_used) {
  population_.seen(device, now_s_);
  const auto window =
      pace_.answer({population_.active(now_s_), waiting_.size(), just_used}, now_s_);
  if (window) {
    schedule(device, State::kAsleep, now_s_ + uniform(window->min_s, window->max_s));
    return false;
  }
  waiting_.insert(device);
  schedule(device, State::kWaiting,
           std::min(now_s_ + options_.poll_s, next_span(device, now_s_).to_s));
  if (server_ == Server::kSelecting) open_if_enough();
  return true;
}

void Fleet::poll_over(uint32_t device) {
  waiting_.erase(device);
  if (next_span(device, now_s_).from_s > now_s_) {
    ++result_.left_line;
    return wake(device);
  }
  if (!ask(device, false)) ++result_.let_go;
}

void Fleet::work_done(uint32_t device) {
  if (server_ == Server::kAway) return try_again(device, State::kWorking);
  Device& one = devices_[device];
  one.tries = 0;
  cohort_.answered(device);
  if (server_ == Server::kRunning && one.round == round_) {
    ++result_.updates;
    ++one.updates;
    ++current_.answered;
  } else {
    ++(one.round <= lost_rounds_ ? result_.lost : result_.late);
  }
  if (!ask(device, true)) ++result_.let_go;
  if (server_ == Server::kRunning && current_.answered >= enough_) close();
}

void Fleet::break_down(uint32_t device) {
  ++result_.dropped;
  schedule(device, State::kAsleep, now_s_ + uniform(kBackAfter, kBackBy));
}

// ---------------------------------------------------------------- the server

void Fleet::tick_server() {
  if (restart_s_ <= server_due_s_) {
    restart_s_ = kNever;
    return go_away();
  }
  server_due_s_ = kNever;
  switch (server_) {
    case Server::kResting:
      return select();
    case Server::kSelecting:
      return open_if_enough();
    case Server::kRunning:
      return close();
    case Server::kAway:
      return come_back();
  }
}

void Fleet::select() {
  server_ = Server::kSelecting;
  current_ = {.begun_s = now_s_};
  pace_.selecting(cohort_.wanted(options_.goal));
  server_due_s_ = now_s_ + options_.select_window_s;
  open_if_enough();
}

void Fleet::open_if_enough() {
  if (!cohort_.may_begin(options_.goal, waiting_.size(), now_s_ - current_.begun_s)) return;
  ++round_;
  ++result_.opened;
  pace_.opened(now_s_);
  const std::vector<uint64_t> present(waiting_.begin(), waiting_.end());
  const auto asked =
      cohort_.draw(Key(options_.seed).child(2).child(round_), present, options_.goal);
  cohort_.ask(asked);
  enough_ = serve::Cohort::enough(options_.goal, asked.size());
  current_.opened_s = now_s_;
  current_.asked = static_cast<uint32_t>(asked.size());
  result_.asked += asked.size();
  server_ = Server::kRunning;
  server_due_s_ = now_s_ + options_.deadline_s;
  for (const uint64_t id : asked) {
    const auto device = static_cast<uint32_t>(id);
    waiting_.erase(id);
    devices_[device].round = round_;
    const double work = options_.work_s * std::exp(options_.work_sigma * random_.normal());
    const double until = next_span(device, now_s_).to_s;
    double breaks = random_.uniform() < options_.drop_out ? now_s_ + uniform(0, work) : kNever;
    if (until < now_s_ + work) breaks = std::min(breaks, until);
    if (breaks < kNever) {
      schedule(device, State::kBreaking, breaks);
    } else {
      schedule(device, State::kWorking, now_s_ + work);
    }
  }
}

void Fleet::close() {
  current_.closed_s = now_s_;
  current_.counted = cohort_.counts(current_.answered, enough_);
  ++(current_.counted ? result_.finished : result_.abandoned);
  result_.rounds.push_back(current_);
  server_ = Server::kResting;
  server_due_s_ = std::max(now_s_, current_.opened_s + options_.period_s);
}

void Fleet::go_away() {
  if (server_ == Server::kRunning) ++result_.interrupted;
  lost_rounds_ = round_;
  reconnect_s_ = pace_.reconnect(population_.active(now_s_)).max_s;
  server_ = Server::kAway;
  server_due_s_ = now_s_ + options_.outage_s;
  const auto waiting = std::move(waiting_);
  waiting_.clear();
  for (const uint64_t device : waiting) try_again(static_cast<uint32_t>(device), State::kAsleep);
}

// What the server's process knew is gone, but for who has joined.
void Fleet::come_back() {
  pace_ = serve::Pace(pace_of(options_));
  cohort_ = serve::Cohort(cohort_of(options_));
  population_ = serve::Population();
  for (uint32_t device = 0; device < devices_.size(); ++device)
    if (devices_[device].joined) population_.know(device, now_s_);
  select();
}

}  // namespace espalier::bench
