#include "espalier/live/board.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier::live {

namespace {

// What the page draws.
constexpr const char* kDrawn[] = {"accuracy",         "loss",           "train_loss",
                                  "bytes_down_total", "bytes_up_total", "wall_seconds"};

double number(const Json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>()
                                                   : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

Board::Board(Json head, uint64_t rounds) : head_(std::move(head)), rounds_(rounds) {}

void Board::set_state(const std::string& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
}

std::string Board::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Board::add_round(const Json& line) {
  const std::lock_guard lock(mutex_);
  const double round = number(line, "round");
  if (!(round >= 0)) return;
  numbers_.push_back(static_cast<uint64_t>(round));
  for (const char* key : kDrawn) figures_[key].push_back(number(line, key));
  for (const auto& [key, value] : line.items())
    if (value.is_number()) last_[key] = value;
  const double failed = number(line, "clients_failed");
  if (failed > 0) failed_ += static_cast<uint64_t>(failed);
  round_seconds_ = std::max(0.0, number(line, "seconds"));
  clients_done_ = clients_total_ = 0;
  round_ended_ = Clock::now();
}

void Board::set_clients(uint64_t done, uint64_t total) {
  const std::lock_guard lock(mutex_);
  clients_done_ = done;
  clients_total_ = total;
}

void Board::add_note(const std::string& note) {
  const std::lock_guard lock(mutex_);
  notes_.push_back(note);
  if (notes_.size() > kNotes) notes_.pop_front();
}

void Board::set_devices(std::function<Json()> devices) {
  const std::lock_guard lock(mutex_);
  devices_ = std::move(devices);
}

Json Board::status(uint64_t since) const {
  std::function<Json()> devices;
  Json out = head_;
  {
    const std::lock_guard lock(mutex_);
    devices = devices_;
    out["state"] = state_;
    out["rounds"] = rounds_;
    const uint64_t done = numbers_.empty() ? 0 : numbers_.back();
    out["round"] = done;
    out["elapsed_seconds"] = std::chrono::duration<double>(Clock::now() - started_).count();
    out["clients_done"] = clients_done_;
    out["clients_total"] = clients_total_;
    out["clients_failed"] = failed_;
    // As long as the last round took, for each that is left; what this one has taken is gone.
    if (state_ == "running" && round_seconds_ > 0 && rounds_ > done) {
      const double gone = std::chrono::duration<double>(Clock::now() - round_ended_).count();
      out["seconds_left"] =
          round_seconds_ * static_cast<double>(rounds_ - done) - std::min(gone, round_seconds_);
    }
    const auto first = static_cast<size_t>(
        std::upper_bound(numbers_.begin(), numbers_.end(), since) - numbers_.begin());
    Json& series = out["series"] = Json::object();
    series["round"] = std::vector<uint64_t>(numbers_.begin() + static_cast<std::ptrdiff_t>(first),
                                            numbers_.end());
    for (const auto& [key, values] : figures_) {
      Json& list = series[key] = Json::array();
      for (size_t i = first; i < values.size(); ++i)
        list.push_back(std::isnan(values[i]) ? Json(nullptr) : Json(values[i]));
    }
    out["last"] = last_;
    out["notes"] = std::vector<std::string>(notes_.begin(), notes_.end());
  }
  out["devices"] = devices ? devices() : Json::array();
  return out;
}

std::string Board::metrics() const {
  const Json now = status(std::numeric_limits<uint64_t>::max());
  std::string text;
  const auto add = [&](const char* name, const char* kind, const char* help, double value,
                       const std::string& labels = "") {
    if (text.find(concat("# TYPE ", name, " ")) == std::string::npos)
      text += concat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n");
    text += concat(name, labels, " ", value, "\n");
  };
  add("espalier_round", "gauge", "Rounds that are complete.", now.value("round", 0.0));
  add("espalier_rounds", "gauge", "Rounds that the run is to have.", now.value("rounds", 0.0));
  add("espalier_clients_failed_total", "counter", "Failures of clients.",
      now.value("clients_failed", 0.0));
  const Json last = now.value("last", Json::object());
  for (const char* direction : {"down", "up"}) {
    add("espalier_bytes_total", "counter", "Bytes of encoded messages.",
        last.value(concat("bytes_", direction, "_total"), 0.0),
        concat("{direction=\"", direction, "\"}"));
  }
  for (const char* key : {"accuracy", "loss"}) {
    if (last.contains(key))
      add(key == std::string("accuracy") ? "espalier_accuracy" : "espalier_loss", "gauge",
          "At the last evaluation.", last.value(key, 0.0));
  }
  if (last.contains("seconds"))
    add("espalier_round_seconds", "gauge", "Of the last round.", last.value("seconds", 0.0));
  std::map<std::string, int> states;
  for (const Json& device : now.value("devices", Json::array()))
    ++states[device.value("connected", false) ? device.value("phase", "idle") : "away"];
  for (const auto& [state, count] : states)
    add("espalier_clients", "gauge", "Devices by what they do.", count,
        concat("{state=\"", state, "\"}"));
  return text;
}

}  // namespace espalier::live
