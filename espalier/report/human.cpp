#include "espalier/report/human.h"

#include <array>
#include <cmath>
#include <cstdio>

#include "espalier/base/error.h"

namespace espalier::report {

namespace {

std::string formatted(const char* format, double value) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), format, value);
  return buffer.data();
}

// Three significant digits of a value below 1000. 9.995 rounds to "10.0", so the bounds are those
// of the rounded text.
std::string three_digits(double value) {
  if (value < 9.995) return formatted("%.2f", value);
  if (value < 99.95) return formatted("%.1f", value);
  return formatted("%.0f", value);
}

std::string scaled(double value, const std::array<const char*, 7>& units) {
  const std::string sign = value < 0 ? "-" : "";
  value = std::fabs(value);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  const bool whole = unit == 0 && value == std::floor(value);
  return sign + (whole ? formatted("%.0f", value) : three_digits(value)) + units[unit];
}

}  // namespace

std::string human_bytes(double bytes) {
  if (!std::isfinite(bytes)) return "n/a";
  return scaled(bytes, {" B", " KB", " MB", " GB", " TB", " PB", " EB"});
}

std::string human_count(double count) {
  if (!std::isfinite(count)) return "n/a";
  return scaled(count, {"", " K", " M", " G", " T", " P", " E"});
}

std::string human_percent(double fraction) {
  if (!std::isfinite(fraction)) return "n/a";
  return formatted("%.2f%%", fraction * 100);
}

std::string human_seconds(double seconds) {
  if (!std::isfinite(seconds)) return "n/a";
  if (seconds < 0) return concat("-", human_seconds(-seconds));
  if (seconds == 0) return "0 s";
  if (seconds < 999.5e-6) return three_digits(seconds * 1e6) + " us";
  if (seconds < 999.5e-3) return three_digits(seconds * 1e3) + " ms";
  if (seconds < 59.95) return three_digits(seconds) + " s";
  const auto pair = [](double whole, const char* large, double rest, const char* small) {
    return formatted("%.0f ", whole) + large + formatted(" %02.0f ", rest) + small;
  };
  const double minutes = std::round(seconds / 60), hours = std::round(seconds / 3600);
  if (std::round(seconds) < 3600) {
    const double total = std::round(seconds);
    return pair(std::floor(total / 60), "min", std::fmod(total, 60), "s");
  }
  if (minutes < 24 * 60) return pair(std::floor(minutes / 60), "h", std::fmod(minutes, 60), "min");
  return pair(std::floor(hours / 24), "d", std::fmod(hours, 24), "h");
}

size_t display_width(std::string_view text) {
  size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return width;
}

}  // namespace espalier::report
