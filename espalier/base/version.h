#pragma once

#include <string_view>

// Which build this is. Defined in one generated source (cmake/version.cmake), made anew when it
// changes and linked only by those that say it.
namespace espalier {

// "0.1.0+ec37227": release and git commit; "0.1.0+ec37227.modified" when tracked files differed
// from the commit; "0.1.0" for sources without git.
std::string_view version();

// 16 hexadecimal digits that change with what results can depend on: the library's sources (tests,
// benches, reports and studies apart), compiler and flags. Unlike the commit it does not change
// with a document, and does with a file that was edited and not committed.
std::string_view build_id();

}  // namespace espalier
