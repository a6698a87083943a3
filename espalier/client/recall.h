#pragma once

#include <string>

#include "espalier/client/algorithm.h"

namespace espalier::client {

// Sends back a set of what the client remembers, as the version that the task builds on has it:
// models that stay with their clients (FedGKT) become part of the model that a run leaves. Nothing
// is trained or remembered.
class Recall final : public ClientAlgorithm {
 public:
  static constexpr const char* kName = "recall";
  struct Options {
    std::string set;  // of ClientState::sets, and the payload's name

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor&& visit) {
      visit("set", self.set, Field("Which of the sets that the client remembers."));
    }
  };
  explicit Recall(Options options) : options_(std::move(options)) {}
  wire::Update run(ClientContext& context, const wire::Task& task) const override;

 private:
  Options options_;
};

}  // namespace espalier::client
