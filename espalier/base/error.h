#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

// Three kinds of failure, kept apart:
//  1. The world (files, configuration, peers): throw espalier::Error. It is caught once per program
//  (exit code 2)
//     and once per client (that client's failure, never the round's).
//  2. Our own bug: ESPALIER_CHECK prints the values and aborts; no input may reach it.
//  3. libtorch's exceptions: turned into Error by one guard in train/.
namespace espalier {

// A failure that the user, a file or a peer caused. The message reads
// "[module/thing] expected X, got Y (where)" and says what to do next where it can.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Our own storage failed (a full disk, a damaged file of ours): nobody else's fault, so it ends the
// run and not a client.
class StorageError : public Error {
 public:
  using Error::Error;
};

// Joins its arguments with operator<<, for messages.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  static_cast<void>((out << ... << parts));
  return out.str();
}

// fail("codec/quantize", "expected ", n, " values, got ", m) throws Error("[codec/quantize]
// expected …").
template <class... Parts>
[[noreturn]] void fail(std::string_view where, const Parts&... parts) {
  throw Error(concat("[", where, "] ", parts...));
}

// The known name nearest to `name` by edit distance; empty when none is near (more than half of it
// differs).
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

// "unknown strategy 'fedagv'; did you mean 'fedavg'? Known: fedavg, fedprox." without the [where]
// prefix.
std::string unknown_name_message(std::string_view kind, std::string_view name,
                                 const std::vector<std::string>& known);

namespace detail {
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& message);
}

}  // namespace espalier

// An invariant of ours. Never reachable from input.
#define ESPALIER_CHECK(condition, ...)                                   \
  do {                                                                   \
    if (!(condition)) [[unlikely]] {                                     \
      ::espalier::detail::check_failed(__FILE__, __LINE__, #condition,   \
                                       ::espalier::concat(__VA_ARGS__)); \
    }                                                                    \
  } while (false)
