#pragma once

#include <string_view>

// The files that a report carries, built in by embed.cmake.
namespace espalier::report::assets {

extern const std::string_view kUplotScript;   // third_party/uplot/uPlot.iife.min.js
extern const std::string_view kUplotStyle;    // third_party/uplot/uPlot.min.css
extern const std::string_view kUplotLicense;  // third_party/uplot/LICENSE
extern const std::string_view kChartsScript;  // assets/charts.js, used by the scripts of pages
extern const std::string_view kReportScript;  // assets/report.js
extern const std::string_view kReportStyle;   // assets/report.css

}  // namespace espalier::report::assets
