#include "espalier/codec/delta.h"

#include "espalier/base/error.h"

namespace espalier::codec {

namespace {

constexpr uint8_t kWhole = 0, kDifference = 1;
constexpr std::string_view kWhere = "codec/delta";

void put_head(uint8_t kind, uint32_t version, Bytes& out) {
  out.clear();
  ByteWriter writer(out);
  writer.put(kind);
  writer.put(version);
}

}  // namespace

DeltaSender::DeltaSender(const Codec& codec, std::shared_ptr<const ParameterLayout> layout)
    : DeltaSender(codec, ParameterSet(std::move(layout)), 0) {}

DeltaSender::DeltaSender(const Codec& codec, ParameterSet state, uint32_t version)
    : codec_(codec),
      identity_(make_codec(Json::array(), "delta")),
      state_(std::move(state)),
      version_(version) {
  if (version_ == 0) return;
  put_head(kWhole, version_, whole_);
  identity_->encode(state_, Key(0), whole_);
}

void DeltaSender::advance(const ParameterSet& x, Key key) {
  ESPALIER_CHECK(x.size() == state_.size(), x.size(), " values, state of ", state_.size());
  ParameterSet next(state_);
  Bytes difference;
  if (version_ == 0) {
    next = ParameterSet(state_.shared_layout(),
                        AlignedVector<float>(x.values().begin(), x.values().end()));
  } else {
    ParameterSet change(state_.shared_layout());
    subtract(x.values(), state_.values(), change.values());
    put_head(kDifference, version_ + 1, difference);
    const size_t head = difference.size();
    codec_.encode(change, key, difference);
    codec_.decode(std::span(difference).subspan(head), change);
    add_scaled(next.values(), 1.0f, change.values());
  }
  Bytes whole;
  put_head(kWhole, version_ + 1, whole);
  identity_->encode(next, Key(0), whole);
  // Nothing has changed until here, so that a refused x leaves the state alone.
  state_ = std::move(next);
  whole_ = std::move(whole);
  difference_ = std::move(difference);
  ++version_;
}

std::span<const uint8_t> DeltaSender::message_for(std::optional<uint32_t> held) const {
  ESPALIER_CHECK(!whole_.empty(), "advance() first");
  return held.has_value() && !difference_.empty() && *held + 1 == version_ ? difference_ : whole_;
}

DeltaReceiver::DeltaReceiver(const Codec& codec, std::shared_ptr<const ParameterLayout> layout)
    : codec_(codec), identity_(make_codec(Json::array(), "delta")), state_(std::move(layout)) {}

DeltaReceiver::DeltaReceiver(const Codec& codec, ParameterSet state, uint32_t version)
    : codec_(codec),
      identity_(make_codec(Json::array(), "delta")),
      state_(std::move(state)),
      version_(version) {}

void DeltaReceiver::apply(std::span<const uint8_t> message) {
  ByteReader reader(message, kWhere);
  const auto kind = reader.get<uint8_t>();
  const auto version = reader.get<uint32_t>();
  const auto body = reader.take(reader.remaining());
  ParameterSet values(state_.shared_layout());
  if (kind == kWhole) {
    identity_->decode(body, values);
    state_ = std::move(values);
  } else if (kind == kDifference) {
    if (!version_.has_value() || *version_ + 1 != version) {
      fail(kWhere, "expected the difference to version ",
           version_.has_value() ? concat(*version_) : "(none held)", ", got that to ", version - 1,
           "; ask for the whole state");
    }
    codec_.decode(body, values);
    add_scaled(values.values(), 1.0f, state_.values());
    if (!all_finite(values.values()))
      fail(kWhere, "the difference leads to values that are not finite");
    state_ = std::move(values);
  } else {
    fail(kWhere, "unknown kind ", int{kind});
  }
  version_ = version;
}

}  // namespace espalier::codec
