#include "espalier/codec/codec.h"

#include <algorithm>

#include "espalier/codec/message.h"
#include "espalier/codec/pipeline.h"
#include "espalier/codec/rules.h"

namespace espalier::codec {

// Outside the unnamed namespace because MessageIndex names it as a friend.
class ConfiguredCodec final : public Codec {
 public:
  explicit ConfiguredCodec(PipelineRules rules) : rules_(std::move(rules)) {
    for (const Pipeline& pipeline : rules_.pipelines()) pipeline.to_wire(table_);
  }

  void encode(const ParameterLayout& layout, std::span<const float> values, Key key,
              Bytes& out) const override {
    const size_t start = out.size();
    try {
      encode_message(layout, values, key, rules_.pipelines(), rules_.choose(layout), out);
    } catch (...) {
      out.resize(start);
      throw;
    }
  }

  void decode(std::span<const uint8_t> message, const ParameterLayout& layout,
              std::span<float> out) const override {
    decode_payloads(read_checked(message, layout), rules_.pipelines(), layout, out);
  }

  MessageIndex index(std::span<const uint8_t> message,
                     std::shared_ptr<const ParameterLayout> layout) const override {
    const MessageHeader header = read_checked(message, *layout);
    MessageIndex index;
    index.layout_ = std::move(layout);
    index.key_ = header.key;
    index.ranges_.reserve(header.tensors.size());
    index.pipelines_.reserve(header.tensors.size());
    for (const TensorHeader& tensor : header.tensors) {
      index.ranges_.push_back(
          {static_cast<uint64_t>(tensor.payload.data() - message.data()), tensor.payload.size()});
      index.pipelines_.push_back(static_cast<uint8_t>(tensor.pipeline));
    }
    return index;
  }

  void decode_tensor(const MessageIndex& index, size_t tensor, std::span<const uint8_t> payload,
                     std::span<float> out) const override {
    ESPALIER_CHECK(tensor < index.num_tensors() && payload.size() == index.range(tensor).size,
                   "tensor ", tensor, ", ", payload.size(), " bytes");
    const ParameterInfo& info = index.layout_->tensors()[tensor];
    ESPALIER_CHECK(out.size() == static_cast<size_t>(info.size), out.size(), " values for ",
                   info.name);
    decode_payload(payload, rules_.pipelines()[index.pipelines_[tensor]], index.key_.child(tensor),
                   info.name, out);
  }

  bool unbiased() const override {
    return std::ranges::all_of(rules_.pipelines(), &Pipeline::unbiased);
  }
  bool lossless() const override {
    return std::ranges::all_of(rules_.pipelines(), &Pipeline::lossless);
  }
  std::string describe() const override { return rules_.describe(); }

 private:
  MessageHeader read_checked(std::span<const uint8_t> message,
                             const ParameterLayout& layout) const {
    MessageHeader header = read_header(message);
    if (!std::ranges::equal(header.pipeline_table, table_)) {
      fail(kMessageWhere, "the sender used another codec than '", describe(), "'");
    }
    check_layout(header, layout);
    const std::vector<size_t> chosen = rules_.choose(layout);
    for (size_t t = 0; t < chosen.size(); ++t) {
      if (header.tensors[t].pipeline != chosen[t])
        fail(kMessageWhere, "another pipeline than configured for ", layout.tensors()[t].name);
    }
    return header;
  }

  PipelineRules rules_;
  Bytes table_;
};

std::unique_ptr<Codec> make_codec(const Json& stages, const std::string& path) {
  return std::make_unique<ConfiguredCodec>(PipelineRules(stages, path));
}

}  // namespace espalier::codec
