#pragma once

#include <string_view>

namespace espalier::bench::assets {

extern const std::string_view kFleetScript;

}  // namespace espalier::bench::assets
