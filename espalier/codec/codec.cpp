#include "espalier/codec/codec.h"

#include <algorithm>

#include "espalier/codec/message.h"
#include "espalier/codec/pipeline.h"
#include "espalier/codec/plain.h"
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
    const std::vector<size_t> chosen = rules_.choose(layout);
    // Where a value is not finite, the other way says which tensor's.
    if (all_plain(layout, chosen) &&
        append_plain(plain_header(layout, key, rules_.pipelines(), chosen), {values, {}}, out))
      return;
    encode_stages(layout, values, key, chosen, out);
  }

  void encode_difference(const ParameterLayout& layout, std::span<const float> after,
                         std::span<const float> before, Key key, Bytes& out) const override {
    const std::vector<size_t> chosen = rules_.choose(layout);
    if (all_plain(layout, chosen) &&
        append_plain(plain_header(layout, key, rules_.pipelines(), chosen), {after, before}, out))
      return;
    std::vector<float, UnsetAllocator<float, 64>> difference(after.size());
    subtract(after, before, difference);
    encode_stages(layout, difference, key, chosen, out);
  }

  float decode(std::span<const uint8_t> message, const ParameterLayout& layout,
               std::span<float> out) const override {
    const std::vector<size_t> chosen = rules_.choose(layout);
    if (const auto key = key_in(message); key && all_plain(layout, chosen)) {
      const Bytes header = plain_header(layout, *key, rules_.pipelines(), chosen);
      // A message that is not as it should be is looked at again, to say what is wrong with it.
      if (const auto largest = copy_plain(header, message, out)) return *largest;
    }
    return decode_payloads(read_checked(message, layout), rules_.pipelines(), layout, out);
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
  bool spreads() const override {
    return std::ranges::all_of(rules_.pipelines(), [](const Pipeline& pipeline) {
      return pipeline.lossless() || pipeline.spreads();
    });
  }
  std::string describe() const override { return rules_.describe(); }
  Coverage coverage(const ParameterLayout& layout) const override {
    Coverage coverage{0, rules_.idle_patterns(layout)};
    const std::vector<size_t> chosen = rules_.choose(layout);
    for (size_t t = 0; t < chosen.size(); ++t)
      if (!rules_.pipelines()[chosen[t]].plain()) coverage.coded_values += layout.tensors()[t].size;
    return coverage;
  }
  std::vector<PipelineLoss> losses(const ParameterLayout& layout) const override {
    std::vector<const ParameterInfo*> largest(rules_.pipelines().size(), nullptr);
    const std::vector<size_t> chosen = rules_.choose(layout);
    for (size_t t = 0; t < chosen.size(); ++t) {
      const ParameterInfo& tensor = layout.tensors()[t];
      const ParameterInfo*& most = largest[chosen[t]];
      if (tensor.size > 0 && (most == nullptr || tensor.size > most->size)) most = &tensor;
    }
    std::vector<PipelineLoss> losses;
    for (size_t p = 0; p < largest.size(); ++p) {
      const Pipeline& pipeline = rules_.pipelines()[p];
      if (largest[p] == nullptr || pipeline.lossless()) continue;
      losses.push_back({pipeline.describe(), largest[p]->name, loss_of(pipeline, *largest[p])});
    }
    return losses;
  }

 private:
  static double loss_of(const Pipeline& pipeline, const ParameterInfo& tensor) {
    constexpr int64_t kMostValues = 8192;
    constexpr uint64_t kTrials = 4;
    const auto size = static_cast<size_t>(std::min(tensor.size, kMostValues));
    std::vector<float> sample(size), decoded(size);
    Stream stream{Key(1)};
    for (float& value : sample) value = static_cast<float>(stream.normal());
    double error = 0;
    for (uint64_t trial = 0; trial < kTrials; ++trial) {
      Bytes payload;
      const Key key = Key(trial).child(0);
      pipeline.encode(sample, key, tensor.name, payload);
      decode_payload(payload, pipeline, key, tensor.name, decoded);
      subtract(decoded, sample, decoded);
      error += squared_norm(decoded) / squared_norm(sample) / kTrials;
    }
    return error;
  }

  // Whether plain.h can take it.
  bool all_plain(const ParameterLayout& layout, std::span<const size_t> chosen) const {
    constexpr int64_t kMostValues = UINT32_MAX / sizeof(float);
    return layout.size() <= kMostValues && std::ranges::all_of(chosen, [&](size_t pipeline) {
             return rules_.pipelines()[pipeline].plain();
           });
  }

  void encode_stages(const ParameterLayout& layout, std::span<const float> values, Key key,
                     std::span<const size_t> chosen, Bytes& out) const {
    const size_t start = out.size();
    try {
      encode_message(layout, values, key, rules_.pipelines(), chosen, out);
    } catch (...) {
      out.resize(start);
      throw;
    }
  }

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

std::string idle_note(const Codec& codec, const ParameterLayout& layout, const std::string& path,
                      const std::string& what) {
  if (codec.lossless() || codec.coverage(layout).coded_values > 0) return "";
  int64_t largest = 0;
  for (const ParameterInfo& tensor : layout.tensors())
    if (is_compressed_role(tensor.role)) largest = std::max(largest, tensor.size);
  const std::string head = concat("[[", path, "]] codes no ", what, ": ");
  if (largest < kMinCodedSize)
    return concat(head, "none has ", kMinCodedSize, " values, and smaller ones travel as float32");
  return concat(head, "there is none that its `for` names");
}

void require_named_tensors(const Codec& codec, const ParameterLayout& layout,
                           const std::string& path) {
  const auto idle = codec.coverage(layout).idle_patterns;
  if (idle.empty()) return;
  std::vector<std::string> names;
  for (const ParameterInfo& tensor : layout.tensors()) names.push_back(tensor.name);
  fail("codec", path, ": ", unknown_name_message("tensor", idle.front(), names),
       " Or a role (weight, bias, norm, embedding, statistic), first or last.");
}

}  // namespace espalier::codec
