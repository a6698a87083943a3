#include "espalier/wire/task.h"

#include "espalier/base/error.h"

namespace espalier::wire {

const Payload& Task::payload(const std::string& name) const {
  for (const Payload& candidate : payloads) {
    if (candidate.name == name) return candidate;
  }
  fail("strategy/task", "the task has no payload '", name, "' (client ", client, ", round ", round,
       ")");
}

double Task::scalar(const std::string& name) const {
  const auto found = scalars.find(name);
  if (found == scalars.end()) {
    fail("strategy/task", "the task has no scalar '", name, "' (client ", client, ", round ", round,
         ")");
  }
  return found->second;
}

double Update::scalar(const std::string& name) const {
  const auto found = scalars.find(name);
  if (found == scalars.end()) fail("strategy/update", "the update has no scalar '", name, "'");
  return found->second;
}

}  // namespace espalier::wire
