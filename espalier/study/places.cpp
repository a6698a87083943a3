#include "espalier/study/places.h"

#include <csignal>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/thread_pool.h"

namespace espalier::study {

LocalPlaces::LocalPlaces(PlaceOptions options) : options_(std::move(options)) {
  ESPALIER_CHECK(options_.jobs > 0);
  if (options_.threads == 0) options_.threads = available_processors();
}

std::string LocalPlaces::start(const Job& job) {
  ESPALIER_CHECK(running_.size() < options_.jobs);
  std::vector<std::string> arguments = {options_.program.string(), "simulate", "--quiet",
                                        "--threads", std::to_string(options_.threads_each())};
  if (job.config.empty()) {
    arguments.insert(arguments.end(), {"--resume", job.folder.string()});
  } else {
    arguments.insert(arguments.end(), {job.config.string(), "--out", job.folder.string()});
  }
  try {
    running_.push_back({job.cell, Child(arguments, job.log)});
  } catch (const Error& error) {
    not_started_.push_back({.cell = job.cell, .error = error.what()});
  }
  return "";
}

std::vector<Ended> LocalPlaces::ended() {
  std::vector<Ended> ended = std::exchange(not_started_, {});
  std::erase_if(running_, [&](Running& one) {
    const auto status = one.child.poll();
    if (status) ended.push_back({.cell = one.cell, .status = *status, .error = ""});
    return status.has_value();
  });
  return ended;
}

void LocalPlaces::stop() {
  for (const Running& one : running_) one.child.signal(SIGINT);
}

}  // namespace espalier::study
