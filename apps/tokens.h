#pragma once

#include <string>

namespace espalier::apps {

// The first line of a file with a token; empty for an empty name. Throws Error when there is none
// or it is short enough to be guessed.
std::string read_token(const std::string& file);

}  // namespace espalier::apps
