#include "espalier/codec/feedback.h"

#include "espalier/base/error.h"

namespace espalier::codec {

void Ef21::encode(const Codec& codec, const ParameterSet& x, Key key, Bytes& out) {
  ESPALIER_CHECK(x.size() == estimate_.size(), x.size(), " values, estimate of ", estimate_.size());
  ParameterSet difference(estimate_.shared_layout());
  subtract(x.values(), estimate_.values(), difference.values());
  const size_t start = out.size();
  codec.encode(difference, key, out);
  decode(codec, std::span(out).subspan(start));
}

void Ef21::decode(const Codec& codec, std::span<const uint8_t> message) {
  ParameterSet difference(estimate_.shared_layout());
  codec.decode(message, difference);
  add_scaled(estimate_.values(), 1.0f, difference.values());
}

void ResidualFeedback::encode(const Codec& codec, const ParameterSet& x, Key key, Bytes& out) {
  ESPALIER_CHECK(x.size() == residual_.size(), x.size(), " values, residual of ", residual_.size());
  ParameterSet wanted(residual_), decoded(residual_.shared_layout());
  add_scaled(wanted.values(), 1.0f, x.values());
  const size_t start = out.size();
  codec.encode(wanted, key, out);
  codec.decode(std::span(out).subspan(start), decoded);
  subtract(wanted.values(), decoded.values(), residual_.values());
}

}  // namespace espalier::codec
