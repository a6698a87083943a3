#include "espalier/codec/message.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "espalier/base/varint.h"

namespace espalier::codec {

namespace {

constexpr std::array<uint8_t, 4> kMagic = {'E', 'S', 'P', 'C'};
constexpr size_t kChecksumSize = 4;
constexpr size_t kMinTensorHeader = 6;  // rank, pipeline, size
constexpr uint64_t kMaxPipelines = 64;
constexpr uint64_t kMaxRank = 16;
constexpr uint64_t kMaxValues = uint64_t{1} << 40;

// The table is needed as bytes too, so pipelines are measured without being built.
void skip_pipeline(ByteReader& reader) {
  const uint64_t stages = get_varint(reader);
  for (uint64_t s = 0; s < stages; ++s) {
    reader.get<uint8_t>();
    reader.take(get_varint(reader));
  }
}

TensorHeader read_tensor(ByteReader& reader, size_t num_pipelines) {
  TensorHeader tensor;
  const uint64_t rank = get_varint(reader);
  if (rank > kMaxRank)
    fail(reader.where(), "a tensor of ", rank, " dimensions exceeds the limit of ", kMaxRank);
  tensor.num_values = 1;
  for (uint64_t d = 0; d < rank; ++d) {
    const uint64_t size = get_varint(reader);
    if (size > kMaxValues || (size > 0 && tensor.num_values > kMaxValues / size)) {
      fail(reader.where(), "a tensor of more than 2^40 values");
    }
    tensor.num_values *= size;
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  tensor.pipeline = get_varint(reader);
  if (tensor.pipeline >= num_pipelines)
    fail(reader.where(), "pipeline ", tensor.pipeline, " of ", num_pipelines);
  return tensor;
}

}  // namespace

namespace {

template <class T>
std::span<T> part(std::span<T> values, const ParameterInfo& tensor) {
  return values.subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.size));
}

}  // namespace

std::vector<size_t> write_header(const ParameterLayout& layout, Key key,
                                 std::span<const Pipeline> pipelines,
                                 std::span<const size_t> chosen, Bytes& out) {
  const auto& tensors = layout.tensors();
  ByteWriter writer(out);
  writer.bytes(kMagic);
  writer.put(kFormatVersion);
  writer.put(key.value());
  put_varint(out, pipelines.size());
  for (const Pipeline& pipeline : pipelines) pipeline.to_wire(out);
  writer.put(layout_fingerprint(layout));
  put_varint(out, tensors.size());
  std::vector<size_t> size_at(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) {
    put_varint(out, tensors[t].shape.size());
    for (const int64_t size : tensors[t].shape) put_varint(out, static_cast<uint64_t>(size));
    put_varint(out, chosen[t]);
    size_at[t] = out.size();
    writer.put(uint32_t{0});
  }
  return size_at;
}

Bytes plain_header(const ParameterLayout& layout, Key key, std::span<const Pipeline> pipelines,
                   std::span<const size_t> chosen) {
  Bytes header;
  const std::vector<size_t> size_at = write_header(layout, key, pipelines, chosen, header);
  for (size_t t = 0; t < size_at.size(); ++t) {
    const auto size =
        static_cast<uint32_t>(sizeof(float) * static_cast<size_t>(layout.tensors()[t].size));
    std::memcpy(header.data() + size_at[t], &size, sizeof(size));
  }
  return header;
}

std::optional<Key> key_in(std::span<const uint8_t> message) {
  constexpr size_t kBefore = kMagic.size() + sizeof(kFormatVersion);
  if (message.size() < kBefore + sizeof(uint64_t)) return std::nullopt;
  return Key(ByteReader(message.subspan(kBefore), kMessageWhere).get<uint64_t>());
}

void encode_message(const ParameterLayout& layout, std::span<const float> values, Key key,
                    std::span<const Pipeline> pipelines, std::span<const size_t> chosen,
                    Bytes& out) {
  ESPALIER_CHECK(values.size() == static_cast<size_t>(layout.size()), values.size(), " values");
  const size_t start = out.size();
  const auto& tensors = layout.tensors();
  const std::vector<size_t> size_at = write_header(layout, key, pipelines, chosen, out);
  size_t most = kChecksumSize;
  for (size_t t = 0; t < tensors.size(); ++t)
    most += pipelines[chosen[t]].max_bytes(static_cast<size_t>(tensors[t].size));
  out.reserve(out.size() + most);
  for (size_t t = 0; t < tensors.size(); ++t) {
    const size_t before = out.size();
    pipelines[chosen[t]].encode(part(values, tensors[t]), key.child(t), tensors[t].name, out);
    const size_t size = out.size() - before;
    if (size > UINT32_MAX)
      fail(kMessageWhere, "expected less than 4 GiB per encoded tensor, got ", size, " bytes (",
           tensors[t].name, ")");
    const auto size32 = static_cast<uint32_t>(size);
    std::memcpy(out.data() + size_at[t], &size32, sizeof(size32));
  }
  ByteWriter(out).put(checksum32(std::span(out).subspan(start)));
}

MessageHeader read_header(std::span<const uint8_t> message) {
  ByteReader reader(message, kMessageWhere);
  if (!std::ranges::equal(reader.take(kMagic.size()), kMagic))
    fail(kMessageWhere, "not an encoded message (magic \"ESPC\" missing)");
  if (const auto version = reader.get<uint8_t>(); version != kFormatVersion) {
    fail(kMessageWhere, "expected format version ", int{kFormatVersion}, ", got ", int{version},
         "; update the older side");
  }
  if (reader.remaining() < kChecksumSize) fail(kMessageWhere, "truncated: no checksum");
  const auto body = message.first(message.size() - kChecksumSize);
  if (ByteReader(message.last(kChecksumSize), kMessageWhere).get<uint32_t>() != checksum32(body)) {
    fail(kMessageWhere, "checksum mismatch: the message was damaged or cut short");
  }

  // From here on the sender, not the line, is to blame; checked all the same.
  reader = ByteReader(body, kMessageWhere);
  reader.take(kMagic.size() + 1);
  MessageHeader header;
  header.key = Key(reader.get<uint64_t>());
  header.num_pipelines = get_varint(reader);
  if (header.num_pipelines > kMaxPipelines) {
    fail(kMessageWhere, header.num_pipelines, " pipelines exceed the limit of ", kMaxPipelines);
  }
  const size_t table_start = reader.position();
  for (size_t p = 0; p < header.num_pipelines; ++p) skip_pipeline(reader);
  header.pipeline_table = body.subspan(table_start, reader.position() - table_start);
  header.layout_fingerprint = reader.get<uint32_t>();
  const uint64_t count = get_varint(reader);
  if (count > reader.remaining() / kMinTensorHeader)
    fail(kMessageWhere, count, " tensors do not fit into ", reader.remaining(), " bytes");
  header.tensors.reserve(count);
  std::vector<uint64_t> sizes;
  for (uint64_t t = 0; t < count; ++t) {
    header.tensors.push_back(read_tensor(reader, header.num_pipelines));
    sizes.push_back(reader.get<uint32_t>());
  }
  for (uint64_t t = 0; t < count; ++t) header.tensors[t].payload = reader.take(sizes[t]);
  reader.finish();
  return header;
}

void check_layout(const MessageHeader& header, const ParameterLayout& layout) {
  const auto& tensors = layout.tensors();
  if (header.tensors.size() != tensors.size()) {
    fail(kMessageWhere, "expected ", tensors.size(), " tensors, got ", header.tensors.size());
  }
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (header.tensors[t].shape != tensors[t].shape) {
      fail(kMessageWhere, "expected shape ", shape_text(tensors[t].shape), ", got ",
           shape_text(header.tensors[t].shape), " (", tensors[t].name, ")");
    }
  }
  if (header.layout_fingerprint != layout_fingerprint(layout)) {
    fail(kMessageWhere, "the sender's tensors have other names or roles");
  }
}

float decode_payloads(const MessageHeader& header, std::span<const Pipeline> pipelines,
                      const ParameterLayout& layout, std::span<float> out) {
  ESPALIER_CHECK(out.size() == static_cast<size_t>(layout.size()), out.size(), " values");
  const auto& tensors = layout.tensors();
  float largest = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    largest = std::max(
        largest, decode_payload(header.tensors[t].payload, pipelines[header.tensors[t].pipeline],
                                header.key.child(t), tensors[t].name, part(out, tensors[t])));
  }
  return largest;
}

float decode_payload(std::span<const uint8_t> payload, const Pipeline& pipeline, Key key,
                     std::string_view name, std::span<float> out) {
  ByteReader reader(payload, kMessageWhere);
  const uint32_t largest = pipeline.decode(reader, key, name, out);
  reader.finish();
  return std::bit_cast<float>(largest);
}

std::vector<Pipeline> read_pipelines(const MessageHeader& header) {
  ByteReader table(header.pipeline_table, kMessageWhere);
  std::vector<Pipeline> pipelines;
  for (size_t p = 0; p < header.num_pipelines; ++p) pipelines.push_back(Pipeline::from_wire(table));
  return pipelines;
}

std::shared_ptr<const ParameterLayout> nameless_layout(const MessageHeader& header,
                                                       uint64_t max_values) {
  std::vector<ParameterInfo> tensors;
  uint64_t total = 0;
  for (const TensorHeader& tensor : header.tensors) {
    if (tensor.num_values > max_values - total)
      fail(kMessageWhere, "more than the allowed ", max_values, " values");
    total += tensor.num_values;
    tensors.push_back({std::to_string(tensors.size()), tensor.shape});
  }
  return std::make_shared<ParameterLayout>(std::move(tensors));
}

ParameterSet decode_any(std::span<const uint8_t> message, uint64_t max_values) {
  const MessageHeader header = read_header(message);
  const std::vector<Pipeline> pipelines = read_pipelines(header);
  ParameterSet out(nameless_layout(header, max_values));
  decode_payloads(header, pipelines, out.layout(), out.values());
  return out;
}

uint32_t layout_fingerprint(const ParameterLayout& layout) {
  Bytes text;
  ByteWriter writer(text);
  for (const ParameterInfo& tensor : layout.tensors()) {
    writer.string(tensor.name);
    writer.put(static_cast<uint8_t>(tensor.role));
    put_varint(text, tensor.shape.size());
    for (const int64_t size : tensor.shape) put_varint(text, static_cast<uint64_t>(size));
  }
  return checksum32(text);
}

}  // namespace espalier::codec
