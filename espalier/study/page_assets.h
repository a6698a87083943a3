#pragma once

#include <string_view>

// The files that a study's page carries besides those of every page, built in by
// report/embed.cmake.
namespace espalier::study::assets {

extern const std::string_view kStudyScript;  // assets/study.js
extern const std::string_view kStudyStyle;   // assets/study.css

}  // namespace espalier::study::assets
