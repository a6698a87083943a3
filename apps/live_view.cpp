#include "apps/live_view.h"

#include <chrono>
#include <thread>

#include "espalier/base/version.h"
#include "espalier/live/http_server.h"

namespace espalier::apps {

namespace {

Json head_of(const run::Simulation& simulation, const std::string& what) {
  const Json& config = simulation.resolved();
  return {{"name", what},
          {"version", version()},
          {"strategy", config["strategy"]["name"]},
          {"model", config["model"]["name"]},
          {"data", config["data"]["name"]}};
}

}  // namespace

struct LiveView::Impl {
  Impl(const std::string& listen, const std::string& what, const run::Simulation& simulation,
       const std::string& token)
      : board(head_of(simulation, what),
              static_cast<uint64_t>(simulation.resolved()["rounds"].get<int64_t>())),
        server(listen, board, what, token) {}
  live::Board board;
  live::HttpServer server;
};

LiveView::LiveView(const std::string& listen, const std::string& what, run::Simulation& simulation,
                   std::function<Json()> devices, const std::string& token)
    : impl_(std::make_unique<Impl>(listen, what, simulation, token)) {
  live::Board& board = impl_->board;
  if (devices) board.set_devices(std::move(devices));
  for (const Json& line : simulation.completed_rounds()) board.add_round(line);
  for (const std::string& note : simulation.notes()) board.add_note(note);
  simulation.on_round = [&board](const Json& line) { board.add_round(line); };
  simulation.on_note = [&board](const std::string& note) { board.add_note(note); };
  simulation.on_clients = [&board](uint64_t done, uint64_t total) {
    board.set_clients(done, total);
  };
}

LiveView::~LiveView() = default;

std::string LiveView::url() const { return impl_->server.url(); }

void LiveView::set_state(const std::string& state) {
  impl_->board.set_state(state);
  // A page asks once a second.
  if (state != "running") std::this_thread::sleep_for(std::chrono::milliseconds(1200));
}

}  // namespace espalier::apps
