#pragma once

#include <string>
#include <utility>

#include "espalier/base/error.h"

// For tests only.
namespace espalier {

// The message of the Error that `work` throws; empty when it throws none.
template <class Work>
std::string error_of(Work&& work) {
  try {
    std::forward<Work>(work)();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace espalier
