#pragma once

#include "espalier/data/load.h"

namespace espalier::data {

// Data that are in this process already, under data.name = "memory": as long as this object lives,
// this thread's load_dataset() finds them. Copies share the inputs (data/values.h).
class HandedOver {
 public:
  explicit HandedOver(LoadedData data);
  ~HandedOver();
  HandedOver(const HandedOver&) = delete;
  HandedOver& operator=(const HandedOver&) = delete;

 private:
  LoadedData data_;
  const LoadedData* before_;
};

// The row's reader. Throws Error when nothing is handed over.
LoadedData load_handed_over(const DataOptions& options, Key key);

}  // namespace espalier::data
