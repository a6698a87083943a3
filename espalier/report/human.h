#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// Numbers as people read them: three significant digits and a unit. Used by the progress bar, the
// tables and the report. Values that are not finite give "n/a"; negative values keep their sign.
namespace espalier::report {

// Decimal units (1 KB = 1000 B): "0 B", "999 B", "1.23 KB", "45.6 MB", "789 GB".
std::string human_bytes(double bytes);

// "850 us", "12.3 ms", "4.56 s", "1 min 05 s", "2 h 03 min", "3 d 04 h".
std::string human_seconds(double seconds);

// "999", "1.23 K", "45.6 M", "7.89 G", "1.00 T": counts of clients, updates, multiply-accumulates.
// Below 1000 a value that is not whole keeps three significant digits ("2.50").
std::string human_count(double count);

// A fraction as a percentage with two decimals: 0.81234 gives "81.23%".
std::string human_percent(double fraction);

// The number of terminal columns a UTF-8 text takes: one per code point (the texts here have no
// wide characters).
size_t display_width(std::string_view text);

}  // namespace espalier::report
