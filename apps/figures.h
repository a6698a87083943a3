#pragma once

#include "espalier/base/options.h"

namespace espalier::apps {

// What a runtime found (run/runtimes.h): one JSON object, or the same for a person.
void print_figures(const Json& figures, bool json);

}  // namespace espalier::apps
