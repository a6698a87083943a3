#pragma once

#include <string>
#include <string_view>

#include "espalier/base/options.h"

// What keeps a hostile name out of a page, and a person's folders out of a report that is passed
// on.
namespace espalier::report {

// For text and for attribute values in double or single quotes: & < > " ' become entities, and
// control characters other than tab and newline become spaces.
std::string html_escape(std::string_view text);

// JSON for inside <script type="application/json">: < > & are written \u003c \u003e \u0026 (they
// can only occur in strings), so neither "</script>" nor "<!--" can appear. Invalid UTF-8 becomes
// U+FFFD, numbers that are not finite null.
std::string script_json(const Json& value);

// A copy in which every string that holds an absolute path of a machine ("/home/…", "~/…", "C:\…",
// "file:…") reads
// "(path not shown)".
Json without_paths(const Json& value);

}  // namespace espalier::report
