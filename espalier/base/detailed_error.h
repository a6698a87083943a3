#pragma once

#include <string>
#include <utility>

#include "espalier/base/error.h"

namespace espalier {

// An Error whose message is ours, and what another library said of the same failure: as many lines
// as it took, for a person who asks for them (--verbose).
class DetailedError : public Error {
 public:
  DetailedError(const std::string& message, std::string detail)
      : Error(message), detail_(std::move(detail)) {}
  const std::string& detail() const { return detail_; }

 private:
  std::string detail_;
};

}  // namespace espalier
