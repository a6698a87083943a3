#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "espalier/base/options.h"

namespace espalier::live {

// What a run says of itself while it goes: written by the run, read by whoever looks. Thread-safe;
// writing costs next to nothing.
class Board {
 public:
  // `head`: what does not change, for a person: "name", "strategy", "model", "version", …
  Board(Json head, uint64_t rounds);

  // "waiting", "running", "done", "stopped", "failed".
  void set_state(const std::string& state);
  std::string state() const;
  // A line of metrics.jsonl.
  void add_round(const Json& line);
  // Clients of the round that have answered.
  void set_clients(uint64_t done, uint64_t total);
  void add_note(const std::string& note);
  // Says what each device does: a list of objects. Called by who reads; empty: there are none.
  void set_devices(std::function<Json()> devices);

  // Everything, with the figures of rounds after `since` alone.
  Json status(uint64_t since = 0) const;
  // The same in Prometheus' text format; client ids are no labels.
  std::string metrics() const;

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kNotes = 50;

  const Json head_;
  const uint64_t rounds_;
  const Clock::time_point started_ = Clock::now();
  mutable std::mutex mutex_;
  std::string state_ = "waiting";
  std::vector<uint64_t> numbers_;                       // of the rounds
  std::map<std::string, std::vector<double>> figures_;  // by key, one per round; NaN: none
  Json last_ = Json::object();
  uint64_t clients_done_ = 0, clients_total_ = 0, failed_ = 0;
  double round_seconds_ = 0;  // of the last one
  Clock::time_point round_ended_ = started_;
  std::deque<std::string> notes_;
  std::function<Json()> devices_;
};

}  // namespace espalier::live
