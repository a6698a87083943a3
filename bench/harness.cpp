#include "bench/harness.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "espalier/base/error.h"

namespace espalier::bench {

Arguments::Arguments(int argc, char** argv) : program_(argv[0]), rest_(argv + 1, argv + argc) {}

bool Arguments::flag(const std::string& name) {
  const auto at = std::ranges::find(rest_, name);
  if (at == rest_.end()) return false;
  rest_.erase(at);
  return true;
}

std::string Arguments::text(const std::string& name, const std::string& otherwise) {
  const auto at = std::ranges::find(rest_, name);
  if (at == rest_.end() || at + 1 == rest_.end()) return otherwise;
  const std::string value = at[1];
  rest_.erase(at, at + 2);
  return value;
}

int64_t Arguments::number(const std::string& name, int64_t otherwise, int64_t least) {
  const std::string value = text(name);
  return value.empty() ? otherwise : std::max<int64_t>(least, std::stol(value));
}

std::vector<std::string> Arguments::positional() {
  std::vector<std::string> found;
  std::erase_if(rest_, [&](const std::string& argument) {
    if (argument.starts_with("--")) return false;
    found.push_back(argument);
    return true;
  });
  return found;
}

void Arguments::finish(const std::string& usage) const {
  if (rest_.empty()) return;
  std::fprintf(stderr, "usage: %s\n", usage.c_str());
  std::exit(2);
}

double quantile(std::vector<double> values, double q) {
  ESPALIER_CHECK(!values.empty());
  std::ranges::sort(values);
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

double median(std::vector<double> values) {
  ESPALIER_CHECK(!values.empty());
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::vector<double> numbers_of_run(const std::string& program, const std::string& arguments,
                                   size_t count) {
  const std::string command = program + " " + arguments;
  FILE* pipe = popen(command.c_str(), "r");
  std::vector<double> numbers(count);
  size_t read = 0;
  while (pipe != nullptr && read < count && std::fscanf(pipe, "%lf", &numbers[read]) == 1) ++read;
  if (pipe == nullptr || pclose(pipe) != 0 || read != count)
    fail("bench", "the measured process failed (", command, ")");
  return numbers;
}

std::string text(const char* format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  const int size = std::vsnprintf(nullptr, 0, format, arguments);
  ESPALIER_CHECK(size >= 0);
  std::string out(static_cast<size_t>(size), '\0');
  std::vsnprintf(out.data(), out.size() + 1, format, again);
  va_end(again);
  va_end(arguments);
  return out;
}

Table::Table(bool json, const std::string& header) : json_(json) {
  if (!json) std::printf("%s\n", header.c_str());
}

void Table::row(Json values, const std::string& line) {
  rows_.push_back(std::move(values));
  if (json_) return;
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void Table::finish() const {
  if (json_) std::printf("%s\n", rows_.dump(1).c_str());
}

}  // namespace espalier::bench
