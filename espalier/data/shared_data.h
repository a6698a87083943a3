#pragma once

#include <map>
#include <optional>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/data/dataset.h"

namespace espalier::data {

// Data sets in memory that several processes of one machine and user look at: one loads them, the
// others map what it has. The memory goes with the last of them. One thread.
class SharedData {
 public:
  SharedData();
  ~SharedData();
  SharedData(const SharedData&) = delete;
  SharedData& operator=(const SharedData&) = delete;

  // Moves the inputs there, bit by bit, so that memory never holds them twice; the data set borrows
  // them from then on (Values). Where the system gives no such memory, and for samples that are
  // fetched when a batch is gathered, nothing changes and nothing is shared.
  void place(Dataset& dataset);
  // What another process opens them by; last, once `source` consists of data sets that were placed
  // here; null when they are not shared. As long as this lives.
  Json describe(const DataSource& source);
  // The data sets of a process that has described them. Nothing when it cannot be reached, from
  // another machine or container for instance: load them then.
  static std::optional<DataSource> open(const Json& described);

 private:
  // Where in the file; nothing when it stays where it is.
  template <class T>
  std::optional<size_t> place(Values<T>& values);
  template <class T>
  Json place_copy(const std::vector<T>& values);
  template <class T>
  Json where(const Values<T>& values) const;
  Json describe(const Dataset& dataset);

  int file_ = -1;
  size_t end_ = 0;
  std::map<const void*, size_t> placed_;  // inputs, by their addresses: where in the file
};

}  // namespace espalier::data
