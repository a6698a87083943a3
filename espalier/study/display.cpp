#include "espalier/study/display.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "espalier/base/printable.h"
#include "espalier/report/human.h"

namespace espalier::study {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

size_t terminal_columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

// The first `columns` code points.
std::string cut(const std::string& text, size_t columns) {
  std::string out;
  for (size_t i = 0, width = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80 && ++width > columns) break;
    out += text[i];
  }
  return out;
}

}  // namespace

Display::Display(bool quiet)
    : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1), last_(now()) {}

Display::~Display() { clear(); }

void Display::clear() {
  if (shown_) std::fputs("\r\033[K", stderr);
  shown_ = false;
}

void Display::line(const std::string& text) {
  if (quiet_) return;
  clear();
  std::fprintf(stderr, "%s\n", printable(text).c_str());
}

void Display::status(const std::string& text) {
  constexpr double kBetween = 60;
  if (quiet_) return;
  if (terminal_) {
    clear();
    std::fputs(cut(printable(text), terminal_columns() - 1).c_str(), stderr);
    shown_ = true;
  } else if (now() - last_ >= kBetween) {
    last_ = now();
    line(text);
  }
}

}  // namespace espalier::study
