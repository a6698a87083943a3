#include "espalier/codec/feedback.h"

#include "espalier/base/error.h"

namespace espalier::codec {

ParameterSet Ef21::difference(const ParameterSet& x) const {
  ESPALIER_CHECK(x.size() == estimate_.size(), x.size(), " values, estimate of ", estimate_.size());
  ParameterSet difference(estimate_.shared_layout());
  subtract(x.values(), estimate_.values(), difference.values());
  return difference;
}

void Ef21::add(const ParameterSet& decoded) {
  add_scaled(estimate_.values(), 1.0f, decoded.values());
}

void Ef21::encode(const Codec& codec, const ParameterSet& x, Key key, Bytes& out) {
  const size_t start = out.size();
  codec.encode(difference(x), key, out);
  decode(codec, std::span(out).subspan(start));
}

void Ef21::decode(const Codec& codec, std::span<const uint8_t> message) {
  ParameterSet difference(estimate_.shared_layout());
  codec.decode(message, difference);
  add(difference);
}

ParameterSet ResidualFeedback::wanted(const ParameterSet& x) const {
  ESPALIER_CHECK(x.size() == residual_.size(), x.size(), " values, residual of ", residual_.size());
  ParameterSet wanted(residual_);
  add_scaled(wanted.values(), 1.0f, x.values());
  return wanted;
}

void ResidualFeedback::settle(const ParameterSet& wanted, const ParameterSet& decoded) {
  subtract(wanted.values(), decoded.values(), residual_.values());
}

void ResidualFeedback::encode(const Codec& codec, const ParameterSet& x, Key key, Bytes& out) {
  const ParameterSet sum = wanted(x);
  const size_t start = out.size();
  codec.encode(sum, key, out);
  ParameterSet decoded(residual_.shared_layout());
  codec.decode(std::span(out).subspan(start), decoded);
  settle(sum, decoded);
}

}  // namespace espalier::codec
