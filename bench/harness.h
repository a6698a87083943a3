#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/base/options.h"

// What benches that print tables share: their command line, statistics of repeated runs, runs in a
// process of their own, and the table itself.
namespace espalier::bench {

// The command line: "--name value", "--name" and positional arguments. Each is asked for once;
// finish() refuses what nobody asked for.
class Arguments {
 public:
  Arguments(int argc, char** argv);
  const std::string& program() const { return program_; }

  bool flag(const std::string& name);
  std::string text(const std::string& name, const std::string& otherwise = "");
  // A whole number of at least `least`; a smaller one counts as that.
  int64_t number(const std::string& name, int64_t otherwise, int64_t least = 1);
  // What has not been asked for and is no "--name".
  std::vector<std::string> positional();
  // Ends the program with status 2 and the usage when something is left.
  void finish(const std::string& usage) const;

 private:
  std::string program_;
  std::vector<std::string> rest_;
};

// The value below which a fraction `q` of the values lies; the upper one of two for the median.
double quantile(std::vector<double> values, double q);
double median(std::vector<double> values);

// Runs `program` (this one) with `arguments` in a process of its own and returns the `count`
// numbers that it prints; an Error when it fails. Unlike after fork(), neither heap settings nor
// peak memory are inherited.
std::vector<double> numbers_of_run(const std::string& program, const std::string& arguments,
                                   size_t count);

// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...);

// Prints measurements: as lines of a table, each as soon as it is there, or, with `json`, all at
// the end as one array.
class Table {
 public:
  Table(bool json, const std::string& header);
  void row(Json values, const std::string& line);
  void finish() const;

 private:
  bool json_;
  Json rows_ = Json::array();
};

}  // namespace espalier::bench
