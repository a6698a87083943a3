#pragma once

#include <string_view>

// The files that the live page carries besides those of every page, built in by report/embed.cmake.
namespace espalier::live::assets {

extern const std::string_view kLiveScript;  // assets/live.js
extern const std::string_view kLiveStyle;   // assets/live.css

}  // namespace espalier::live::assets
