#include "espalier/codec/codec.h"

#include <algorithm>

#include "espalier/codec/message.h"
#include "espalier/codec/pipeline.h"
#include "espalier/codec/rules.h"

namespace espalier::codec {

namespace {

class ConfiguredCodec final : public Codec {
 public:
  explicit ConfiguredCodec(PipelineRules rules) : rules_(std::move(rules)) {
    for (const Pipeline& pipeline : rules_.pipelines()) pipeline.to_wire(table_);
  }

  void encode(const ParameterSet& x, Key key, Bytes& out) const override {
    const size_t start = out.size();
    try {
      encode_message(x, key, rules_.pipelines(), rules_.choose(x.layout()), out);
    } catch (...) {
      out.resize(start);
      throw;
    }
  }

  void decode(std::span<const uint8_t> message, ParameterSet& out) const override {
    const MessageHeader header = read_header(message);
    if (!std::ranges::equal(header.pipeline_table, table_)) {
      fail(kMessageWhere, "the sender used another codec than '", describe(), "'");
    }
    check_layout(header, out.layout());
    const std::vector<size_t> chosen = rules_.choose(out.layout());
    for (size_t t = 0; t < chosen.size(); ++t) {
      if (header.tensors[t].pipeline != chosen[t]) {
        fail(kMessageWhere, "another pipeline than configured for ",
             out.layout().tensors()[t].name);
      }
    }
    decode_payloads(header, rules_.pipelines(), out);
  }

  bool unbiased() const override {
    return std::ranges::all_of(rules_.pipelines(), &Pipeline::unbiased);
  }
  bool lossless() const override {
    return std::ranges::all_of(rules_.pipelines(), &Pipeline::lossless);
  }
  std::string describe() const override { return rules_.describe(); }

 private:
  PipelineRules rules_;
  Bytes table_;
};

}  // namespace

std::unique_ptr<Codec> make_codec(const Json& stages, const std::string& path) {
  return std::make_unique<ConfiguredCodec>(PipelineRules(stages, path));
}

}  // namespace espalier::codec
