#pragma once

#include <string>

namespace espalier::live {

// The page that shows a run as it goes, in one file: it asks /status.json once a second.
std::string live_page(const std::string& title);

}  // namespace espalier::live
