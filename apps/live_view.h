#pragma once

#include <functional>
#include <memory>
#include <string>

#include "espalier/base/options.h"
#include "espalier/run/simulation.h"

namespace espalier::apps {

// A run on a page that a browser shows while it goes (live/http_server.h). In a program without it
// (ESPALIER_LIVE) nothing can be opened.
class LiveView {
 public:
  // Shows the run from here on; `what`: a line on the data. Throws Error when `listen` cannot be
  // had. Set before the run begins, outlives it.
  // `token`: what readers have to send (live/http_server.h).
  LiveView(const std::string& listen, const std::string& what, run::Simulation& simulation,
           std::function<Json()> devices = {}, const std::string& token = {});
  ~LiveView();

  std::string url() const;
  // "running", "done", "stopped", "failed"; the last three give browsers a moment to hear of it.
  void set_state(const std::string& state);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace espalier::apps
