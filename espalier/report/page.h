#pragma once

#include <string>
#include <string_view>

#include "espalier/base/options.h"

// The frame of every page that we write: one file with style, chart library, data and scripts
// inside. A page's script finds its data in #data, the helpers of assets/charts.js in `charts`, and
// draws into #charts; it sets data-plots of the root to the number of charts, for
// scripts/check-report.
namespace espalier::report {

struct Page {
  std::string title;         // plain text
  std::string_view kind;     // "run report": behind the product's name
  std::string subtitle;      // HTML below the title
  std::string body;          // HTML
  Json data;                 // for the script
  std::string_view style{};  // further CSS
  std::string_view script;
  // HTML of the last line, before who made it.
  std::string_view footer =
      "Bytes are those of the encoded messages, headers and indices included.";
};

std::string page(const Page& page);

// The CSS background of curve `index` in swatches and bars, as `charts` has it: colours repeat
// after eight, and then they are striped (their curves are dashed).
std::string swatch_background(size_t index);
std::string swatch(size_t index);  // HTML

}  // namespace espalier::report
