#pragma once

#include <string>

namespace espalier::study {

// What a person sees of a study while it runs, on standard error: lines that stay, and on a
// terminal one that is written over; elsewhere that one appears once a minute. Quiet: nothing.
class Display {
 public:
  explicit Display(bool quiet);
  ~Display();
  Display(const Display&) = delete;
  Display& operator=(const Display&) = delete;

  void line(const std::string& text);
  void status(const std::string& text);

 private:
  void clear();

  bool quiet_, terminal_;
  bool shown_ = false;  // a status stands in the current line
  double last_;         // when a status was written where it stays
};

}  // namespace espalier::study
