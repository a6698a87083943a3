#pragma once

#include "espalier/client/algorithm.h"
#include "espalier/strategy/client_algorithms.h"
#include "espalier/wire/task.h"

namespace espalier::strategy {

// For tests: runs the client half that a task names, as a session does.
inline wire::Update run_client(client::ClientContext& context, const wire::Task& task) {
  return client::find_algorithm(client_algorithms(), task.algorithm)
      .create({&task.options, "task.options"}, {})
      ->run(context, task);
}

}  // namespace espalier::strategy
