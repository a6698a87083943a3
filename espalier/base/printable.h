#pragma once

#include <string>
#include <string_view>

namespace espalier {

// The text with every control character replaced by '?': names from files and words of peers must
// not steer somebody's terminal.
std::string printable(std::string_view text);

}  // namespace espalier
