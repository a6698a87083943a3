#include "espalier/round/partial_sums.h"

#include "espalier/round/exchange.h"
#include "espalier/strategy/strategy.h"

namespace espalier::round {

wire::Update PartialSums::add(uint64_t client, double held,
                              const std::shared_ptr<const ParameterLayout>& layout,
                              const wire::EncodedMessage& update, const codec::Codec& uplink) {
  wire::WireLimits limits;
  limits.model = layout;
  limits.max_values = 0;
  limits.max_payloads = summing_.payloads.size();
  wire::Update read = decode_update(update, uplink, limits);
  check_claims(read, held);
  strategy::check_payloads(summing_.payloads, *layout, read.num_samples, read);
  sums_.add(client, read);
  for (wire::Payload& payload : read.payloads) payload.values = nullptr;
  return read;
}

}  // namespace espalier::round
