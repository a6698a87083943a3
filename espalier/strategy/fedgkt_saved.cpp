// A model that FedGKT has left behind, evaluated.
#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/strategy/fedgkt.h"

namespace espalier::strategy {

SavedEvaluation FedGkt::evaluate_saved(const SavedModel& saved) {
  const data::Dataset& test = *saved.data.test;
  ParameterSet weights = net_->weights();
  read_parameters(saved.file, "server/", weights);
  net_->set_weights(weights);

  data::Dataset features;
  features.name = "feature maps";
  features.kind = data::Kind::kFloat;
  features.sample_shape = feature_shape_;
  features.num_classes = setup_.data.num_classes;
  const size_t size = features.sample_size();
  SavedEvaluation out;
  out.server_parameters = net_->weights().layout().num_trainable();
  out.server_macs_per_sample = net_->macs_per_sample();
  bool any = false;
  ParameterSet net(saved.client.layout());
  for (uint64_t k = 0; k < setup_.num_clients; ++k) {
    const std::string prefix = concat("client-", k, "/");
    if (saved.file.find(prefix + net.layout().tensors()[0].name) == nullptr) continue;
    any = true;
    read_parameters(saved.file, prefix, net);
    saved.client.load(net);
    std::vector<uint32_t> samples;
    for (uint64_t i = k; i < test.size(); i += setup_.num_clients)
      samples.push_back(static_cast<uint32_t>(i));
    features.labels.clear();
    features.floats.resize(samples.size() * size);
    std::vector<uint32_t> all;
    for (size_t begin = 0; begin < samples.size(); begin += ServerNet::kBatch) {
      const auto part =
          std::span(samples).subspan(begin, std::min(ServerNet::kBatch, samples.size() - begin));
      saved.client.predict(test, part, nullptr, Key(0),
                           std::span(features.floats).subspan(begin * size, part.size() * size),
                           {});
      for (const uint32_t sample : part) {
        all.push_back(static_cast<uint32_t>(all.size()));
        features.labels.push_back(test.labels[sample]);
      }
    }
    fedgkt::protect(features.floats, size, options_.clip_features, 0, Key(0));
    out.sums += net_->evaluate(features, all);
  }
  if (!any) {
    fail("strategy/fedgkt", "the file holds no client's net, so that nothing feeds the server's (",
         saved.file.where(), ")");
  }
  const bool coded = !setup_.uplink->lossless() || options_.feature_noise > 0;
  out.note = concat("every client's net with the server's, each on its share of the test samples",
                    coded ? ", with feature maps as they are, neither coded nor blurred" : "",
                    "; a round's accuracy is that of the clients that took part in it",
                    coded ? ", with the maps that they sent" : "");
  return out;
}

}  // namespace espalier::strategy
