#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "espalier/strategy/feature_store.h"
#include "espalier/strategy/fedgkt_client.h"
#include "espalier/strategy/fedgkt_payloads.h"
#include "espalier/strategy/server_net.h"
#include "espalier/strategy/strategy.h"

namespace espalier::strategy {

struct FedGktOptions : FedGktClientOptions {
  std::string server_model = "resnet55-server";
  std::string server_file;
  int64_t server_epochs = 20;
  int64_t server_batch_size = 256;
  int64_t server_shards = 1;
  std::string server_optimizer = "adam";
  double server_lr = 1e-3;
  double server_momentum = 0;
  double server_weight_decay = 1e-4;
  bool server_amsgrad = true;
  double server_lr_factor = 0.1;
  int64_t server_lr_patience = 10;
  std::string server_precision = "fp32";
  std::string server_device = "cpu";
  bool server_distillation = true;
  bool shuffle_clients = true;
  std::string mode = "synchronous";
  std::string pretrained_extractor;
  int64_t memory_limit_mb = 0;
  // Of w̄ ← a·w̄ + (1 − a)·w after every pass of the server; 0: w itself answers.
  double server_average = 0;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("server_model", self.server_model,
          Field("The server's net, on the clients' feature maps; `espalier list models`."));
    visit(
        "server_file", self.server_file,
        Field("server_model = \"torchscript\": path of the scripted module.")
            .path()
            .needs(self.server_model == "torchscript", "strategy.server_model = \"torchscript\""));
    visit("server_epochs", self.server_epochs,
          Field("Passes over the uploaded samples per round (paper: 20 IID, 10 otherwise).")
              .at_least(1));
    visit("server_batch_size", self.server_batch_size, Field("Samples per step.").at_least(1));
    visit("server_shards", self.server_shards,
          Field("Parts of a server batch that are computed side by side and normalized each by "
                "itself; changes the result, unlike the number of threads.")
              .at_least(1)
              .at_most(64));
    visit("server_optimizer", self.server_optimizer,
          Field("The server's optimizer.").one_of({"sgd", "adam", "adamw"}));
    visit("server_lr", self.server_lr, Field("The server's learning rate.").above(0));
    visit("server_momentum", self.server_momentum,
          Field("sgd: momentum.")
              .at_least(0)
              .below(1)
              .needs(self.server_optimizer == "sgd", "strategy.server_optimizer = \"sgd\""));
    visit("server_weight_decay", self.server_weight_decay, Field("L2 penalty.").at_least(0));
    visit("server_amsgrad", self.server_amsgrad,
          Field("adam: keep the largest second moment (Reddi et al. 2018)."));
    visit("server_lr_factor", self.server_lr_factor,
          Field("Factor on the server's learning rate when its training accuracy has stopped "
                "rising; 1 is off.")
              .above(0)
              .at_most(1));
    visit("server_lr_patience", self.server_lr_patience,
          Field("Rounds without a higher accuracy before that.")
              .at_least(0)
              .needs(self.server_lr_factor < 1, "strategy.server_lr_factor below 1"));
    visit("server_precision", self.server_precision,
          Field("The server's arithmetic.").one_of({"fp32", "bf16"}));
    visit("server_device", self.server_device,
          Field("Where the server trains.").one_of({"cpu", "cuda"}));
    FedGktClientOptions::loss_fields(self, visit);
    visit("server_distillation", self.server_distillation,
          Field("Whether the server learns from the clients' logits besides the labels."));
    visit("shuffle_clients", self.shuffle_clients,
          Field("Server batches mix the samples of all clients; false: client by client, as in the "
                "authors' code."));
    visit("mode", self.mode,
          Field("asynchronous: the server keeps every client's latest upload and trains on all of "
                "them.")
              .one_of({"synchronous", "asynchronous"}));
    visit("pretrained_extractor", self.pretrained_extractor,
          Field("Safetensors file with the extractor's tensors by name, from which every client "
                "starts; empty: drawn from the seed.")
              .path());
    FedGktClientOptions::upload_fields(self, visit);
    visit("memory_limit_mb", self.memory_limit_mb,
          Field("Encoded feature maps that the server keeps in memory, in MB; what exceeds it lies "
                "on disk; 0 is no limit.")
              .at_least(0));
    visit(
        "server_average", self.server_average,
        Field("Answer, evaluate and save the running average of the server's weights, of which so "
              "much stays after every pass over the samples; 0: the weights themselves.")
            .at_least(0)
            .below(1));
  }
};

// FedGKT: group knowledge transfer (He, Annavaram, Avestimehr, NeurIPS 2020, arXiv 2007.14513).
// Client k owns a small extractor f_e and a small classifier f_c, the server a large net f_s on the
// extractor's feature map H. No weights travel: feature maps, logits and labels go up, logits come
// down. With the losses of nn/loss.h, per sample i of client k:
//
//   client    CE(f_c(H), y) + α·KD(f_c(H) ← z_s)        CE alone for samples without z_s
//   server    KD(f_s(H) ← z_c) + α·CE(f_s(H), y)        CE alone without server_distillation
//
// A round: a client goes on from its own weights and optimizer state, trains train.epochs passes,
// then sends in evaluation mode, for (a part of) its samples: position, label, logits z_c, H. The
// server trains server_epochs passes over what came, then computes z_s of every sample for the
// client's next task. The global parameters are what every client starts from; they never change.
//
// How we differ from the paper's public code:
// - Logits belong to samples by their position in the client's own list. The release looks them up
//   by the number of a batch under a loader that reshuffles, so they teach other samples.
// - z_s is computed in evaluation mode by the weights after the last epoch (the release keeps what
//   the last training pass happened to say): one more forward pass, and no dependence on batches.
// - Server batches mix all clients by default (shuffle_clients).
// - The plateau schedule looks at the server's training accuracy of the round (mean over its
//   epochs; a rise of less than 1e-4 of it is none): test samples choose nothing.
// - Optimizer state and normalization statistics persist on both sides; a client's stay local.
// - server_average and extractor_rounds are ours: what the two sides say wavers from round to round
//   because each learns from the other while that moves.
// - Encoding H, uploading a part, clipping and noise are ours.
//
// Asynchronous mode: the paper lets the server train without pause over the latest upload of each
// client and answer a client as soon as one pass over its data is done. Rounds quantize this: in
// each, the server takes up the uploads that arrived, makes server_epochs passes over the latest
// upload of every client seen so far, and whoever is selected next gets the logits of the last pass
// over its data. With clients_per_round below the number of clients, a client's answer is at most
// one round old and the slow ones' data are trained on all the while; what rounds cannot show is an
// upload that takes effect within a pass.
//
// Privacy: feature maps of one convolution are close to the picture itself; whoever has the
// extractor can invert them, and labels travel in the clear. The paper's wording that raw data stay
// local promises less than it seems to. clip_features and feature_noise bound and blur H, test
// samples' too, at a cost in accuracy; they are no differential privacy of what is trained, and
// labels and logits are not covered.
//
// Determinism: samples are ordered by client and position, so the order of arrival, the number of
// threads and memory_limit_mb change no bit.
class FedGkt : public Strategy, private EncodedUpdates, private OwnModel, private LongState {
 public:
  using Options = FedGktOptions;
  explicit FedGkt(const Options& options);
  ~FedGkt() override;

  Traits traits() const override { return {.client_state = true, .weights_travel = false}; }
  Capabilities capabilities() override {
    return {.encoded_updates = this, .own_model = this, .long_state = this};
  }
  void start(const ServerSetup& setup) override;
  void configure(const RoundInfo& round, const std::shared_ptr<const ParameterSet>& global,
                 Task& task) override;
  void check(const RoundInfo& round, const ParameterLayout& layout, double num_samples,
             const Update& update) const override;
  void accumulate(const RoundInfo& round, uint64_t client, const Update& update,
                  RoundSums& sums) override;
  void finish(const RoundInfo& round, const RoundSums& sums, ParameterSet& global) override;
  RoundReport take_report() override { return {metrics_, {}}; }
  void save(ByteWriter& out) const override;
  void load(ByteReader& in) override;

  // A client's upload besides its feature maps.
  struct Upload {
    std::vector<uint32_t> ids;         // positions in the client's list, ascending
    std::vector<int32_t> labels;       // of the uploaded samples
    std::vector<float> logits;         // the client's, samples × classes
    std::vector<int32_t> test_labels;  // of the held-out samples; empty: none
    double client_accuracy = 0;        // the client's own on them
  };

 private:
  struct Plateau {
    double best = 0, lr_scale = 1;
    int64_t bad_rounds = 0;
  };
  int64_t max_values(const ParameterLayout& layout, double num_samples) const override;
  OwnEvaluation evaluated() const override { return evaluated_; }
  Travelling travelling() const override;
  // "server": the server's net.
  std::map<std::string, ParameterSet> parts() const override;
  std::string client_set() const override { return FedGktClient::kNet; }
  // Every saved client's extractor on its share of the test samples, then the server's net; pooled.
  // Feature maps are clipped as in training, but neither coded nor blurred.
  SavedEvaluation evaluate_saved(const SavedModel& saved) override;
  // Feature maps that lie on disk stay there until they are read.
  ByteSource saved() const override;
  // They come client by client, into memory up to the limit.
  void restore(SourceReader& in) override;
  Upload read_upload(const RoundInfo& round, const Update& update) const;
  // What came in an earlier try of this round, from clients that do not count in it, goes; of
  // asynchronous runs only what it evaluates on, since their uploads are the latest that came.
  void forget_failed(const RoundSums& sums);
  train::FitResult train(const data::Dataset& dataset, Key key);
  void add_to_average();
  // The net that answers; the one that is trained is put aside until the second call.
  void use_average();
  void use_weights();
  void answer(const data::Dataset& dataset);
  void evaluate();
  void step_schedule(double accuracy);

  Options options_;
  ServerSetup setup_;
  std::vector<int64_t> feature_shape_;
  std::vector<size_t> extractor_;
  std::unique_ptr<ServerNet> net_;
  std::unique_ptr<FeatureStore> features_;
  std::shared_ptr<const ParameterSet> initial_, initial_of_;  // with the pretrained extractor
  ParameterSet average_, trained_;  // of the weights, with server_average; while it answers
  train::OptimizerState optimizer_;
  Plateau plateau_;
  std::mutex mutex_;
  std::map<uint64_t, Upload> uploads_;
  // What a client's next task tells it: its samples' positions and logits.
  std::map<uint64_t, std::shared_ptr<const ParameterSet>> answers_;
  OwnEvaluation evaluated_;
  std::map<std::string, double> metrics_;
};

}  // namespace espalier::strategy
