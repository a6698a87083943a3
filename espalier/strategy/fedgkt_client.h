#pragma once

#include <cstdint>
#include <string>

#include "espalier/client/algorithm.h"

namespace espalier::strategy {

// What FedGKT's client must know; they travel with its tasks. The server's options have them too,
// since it checks uploads by them and weighs its own loss by alpha and temperature.
struct FedGktClientOptions {
  // Of the client's loss CE + α·KD(f_c(H) ← z_s), ≥ 0, and the temperature of both distillations.
  double alpha = 1;
  double temperature = 3;
  // Part of its samples that a client uploads per round, above 0 and at most 1; at least one.
  double sample_fraction = 1;
  // L2 norm that a feature map is clipped to, and standard deviation of the Gaussian noise that is
  // then added to each of its values; 0: neither.
  double clip_features = 0;
  double feature_noise = 0;
  // Held-out samples that a client uploads where the run evaluates; 0: all that it has.
  int64_t test_samples = 0;
  // Rounds in which the extractor is trained; afterwards its weights and statistics stand still and
  // the classifier alone learns, so that what the server has learnt to read stays so. 0: always.
  int64_t extractor_rounds = 0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    loss_fields(self, visit);
    upload_fields(self, visit);
  }

  // In two parts, between which the server's fields stand in a file.
  template <class Self, class Visitor>
  static void loss_fields(Self& self, Visitor&& visit) {
    visit("alpha", self.alpha,
          Field("Weight of the distillation for clients, of the cross-entropy for the server.")
              .at_least(0));
    visit("temperature", self.temperature, Field("Of both distillations.").above(0));
  }

  template <class Self, class Visitor>
  static void upload_fields(Self& self, Visitor&& visit) {
    visit("sample_fraction", self.sample_fraction,
          Field("Part of its samples that a client uploads per round, drawn anew each time.")
              .above(0)
              .at_most(1));
    visit("clip_features", self.clip_features,
          Field("Clip each feature map's L2 norm to this; 0 is off.").at_least(0));
    visit("feature_noise", self.feature_noise,
          Field("Standard deviation of Gaussian noise on every uploaded feature, after clipping; 0 "
                "is off.")
              .at_least(0));
    visit("test_samples", self.test_samples,
          Field("Held-out samples that a client uploads where the run evaluates; 0: all it has.")
              .at_least(0));
    visit(
        "extractor_rounds", self.extractor_rounds,
        Field("Rounds in which clients train their extractors too, and not the classifiers alone; "
              "0: all.")
            .at_least(0)
            .at_most(1e9));
  }
};

// FedGKT's client (He, Annavaram, Avestimehr 2020; fedgkt.h): goes on from its own net and
// optimizer, learns from the server's logits in the payload "answers", and sends feature maps,
// logits and labels. Its state: "net" (all of its weights and statistics), "optimizer.steps" and
// the optimizer's buffers.
class FedGktClient final : public client::ClientAlgorithm {
 public:
  static constexpr const char* kName = "fedgkt";  // as tasks name it
  static constexpr const char* kNet = "net";      // of its state
  using Options = FedGktClientOptions;
  explicit FedGktClient(const Options& options) : options_(options) {}
  // Throws Error when the model names no feature map, the stored state or the server's answers
  // belong to another model, or the upload would exceed fedgkt::kMaxSamples.
  wire::Update run(client::ClientContext& context, const wire::Task& task) const override;

 private:
  Options options_;
};

}  // namespace espalier::strategy
