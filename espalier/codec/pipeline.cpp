#include "espalier/codec/pipeline.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>

#include "espalier/base/config.h"
#include "espalier/codec/blocks.h"
#include "espalier/params/parameter_set.h"

namespace espalier::codec {

namespace {

constexpr size_t kMaxStages = 8;

std::string option_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string step_text(const Pipeline::Step& step) {
  std::string text = step.row->name;
  const Json defaults = step.row->resolve(ConfigSection{}, {});
  for (const auto& [key, value] : step.options.items()) {
    if (value != defaults.at(key)) text += ":" + key + "=" + option_text(value);
  }
  return text;
}

// The largest magnitude, as the bits of a float without its sign: infinities and NaN stand above
// all numbers.
uint32_t max_magnitude_bits(std::span<const float> x) {
  uint32_t bits = 0;
  for (const float value : x) bits = std::max(bits, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  return bits;
}

constexpr uint32_t kInfinityBits = 0x7f800000u;

}  // namespace

Pipeline::Pipeline(std::vector<Step> steps) : steps_(std::move(steps)) {
  if (steps_.size() > kMaxStages)
    fail("codec", "expected at most ", kMaxStages, " stages, got ", steps_.size());
  StageContext context;
  StageKind last = StageKind::kIdentity;
  for (const Step& step : steps_) {
    const StageKind kind = step.row->kind;
    if (kind == StageKind::kIdentity && steps_.size() > 1) {
      fail("codec", "'identity' stands alone; leave it out of '", step_text(steps_[0]), ", …'");
    }
    if (kind != StageKind::kIdentity && kind == last) {
      fail("codec", "'", step.row->name,
           "' follows another stage of its kind; a pipeline has at most one transform (hadamard, ",
           "kashin), one sparsifier (subsample, topk, randomk) and one coder (quantize, eden, "
           "dithered, trellis, cast)");
    }
    if (kind < last) {
      fail("codec", "'", step.row->name,
           "' comes too late: the order is transform, sparsifier, coder");
    }
    last = kind;
    stages_.push_back(step.row->make(step.options, context));
    context.first = false;
    if (!text_.empty()) text_ += ",";
    text_ += step_text(step);
  }
  if (steps_.empty()) text_ = "identity";
  if (steps_.empty() || last < StageKind::kCoder) {
    if (steps_.empty() || last != StageKind::kIdentity) {
      stages_.push_back(stage_row("identity").make(Json::object(), context));
    }
  }
  block_ = stages_[0]->block();
}

Pipeline Pipeline::from_wire(ByteReader& reader) {
  const uint64_t count = get_varint(reader);
  if (count > kMaxStages)
    fail(reader.where(), "a pipeline of ", count, " stages exceeds the limit of ", kMaxStages);
  std::vector<Step> steps;
  for (uint64_t i = 0; i < count; ++i) {
    const StageRow& row = stage_row(reader.get<uint8_t>(), reader.where());
    const uint64_t size = get_varint(reader);
    ByteReader options(reader.take(size), concat(reader.where(), "/", row.name));
    steps.push_back({&row, row.from_wire(options)});
    options.finish();
  }
  return Pipeline(std::move(steps));
}

Pipeline Pipeline::from_text(std::string_view text) {
  std::vector<Step> steps;
  for (const Json& table : parse_stages(text)) {
    const StageRow& row = stage_row(table.at("stage").get<std::string>());
    steps.push_back({&row, row.resolve(ConfigSection{&table, row.name}, {"stage"})});
  }
  return Pipeline(std::move(steps));
}

void Pipeline::to_wire(Bytes& out) const {
  put_varint(out, steps_.size());
  for (const Step& step : steps_) {
    out.push_back(step.row->wire_id);
    Bytes options;
    step.row->to_wire(step.options, options);
    put_varint(out, options.size());
    ByteWriter(out).bytes(options);
  }
}

size_t Pipeline::scratch_size(size_t n) const {
  size_t most = 0;
  for_each_block(n, block_, [&](size_t, size_t size, size_t) {
    for (const auto& stage : stages_) most = std::max(most, size = stage->output_size(size));
  });
  return most;
}

size_t Pipeline::max_bytes(size_t n) const {
  size_t total = 0;
  for_each_block(n, block_, [&](size_t, size_t size, size_t) {
    for (const auto& stage : stages_) {
      total += stage->max_bytes(size);
      size = stage->output_size(size);
    }
  });
  return total;
}

void Pipeline::encode(std::span<const float> x, Key key, std::string_view name, Bytes& out) const {
  const uint32_t limit = lossless() ? kInfinityBits - 1 : std::bit_cast<uint32_t>(kMaxMagnitude);
  out.reserve(out.size() + max_bytes(x.size()));
  // Neighbouring stages alternate between two buffers.
  const size_t scratch = scratch_size(x.size());
  std::array<AlignedVector<float>, 2> buffers = {
      AlignedVector<float>(scratch), AlignedVector<float>(stages_.size() > 2 ? scratch : 0)};
  for_each_block(x.size(), block_, [&](size_t begin, size_t size, size_t index) {
    std::span<const float> in = x.subspan(begin, size);
    if (const uint32_t bits = max_magnitude_bits(in); bits > limit) {
      if (bits >= kInfinityBits)
        fail("codec/encode", "expected finite values, got NaN or infinity (", name, ")");
      fail("codec/encode", "expected magnitudes of at most 2^96, got ", std::bit_cast<float>(bits),
           " (", name, ")");
    }
    const Key block_key = key.child(index);
    for (size_t s = 0; s < stages_.size(); ++s) {
      const auto next = std::span(buffers[s % 2]).first(stages_[s]->output_size(in.size()));
      stages_[s]->encode(in, block_key.child(s), next, out);
      in = next;
    }
  });
}

void Pipeline::decode(ByteReader& reader, Key key, std::string_view name,
                      std::span<float> out) const {
  const size_t scratch = scratch_size(out.size());
  std::array<AlignedVector<float>, 2> buffers = {
      AlignedVector<float>(scratch), AlignedVector<float>(stages_.size() > 2 ? scratch : 0)};
  std::array<std::span<const uint8_t>, kMaxStages + 1> bytes;
  std::array<size_t, kMaxStages + 2> sizes{};
  for_each_block(out.size(), block_, [&](size_t begin, size_t size, size_t index) {
    sizes[0] = size;
    for (size_t s = 0; s < stages_.size(); ++s) {
      bytes[s] = stages_[s]->take(reader, sizes[s]);
      sizes[s + 1] = stages_[s]->output_size(sizes[s]);
    }
    const Key block_key = key.child(index);
    std::span<const float> in;
    for (size_t s = stages_.size(); s-- > 0;) {
      const auto target =
          s == 0 ? out.subspan(begin, size) : std::span(buffers[(s - 1) % 2]).first(sizes[s]);
      stages_[s]->decode(in, bytes[s], block_key.child(s), target);
      in = target;
    }
    if (max_magnitude_bits(in) >= kInfinityBits)
      fail(reader.where(), "a decoded value is not finite (", name, ")");
  });
}

bool Pipeline::unbiased() const {
  return std::all_of(stages_.begin(), stages_.end(),
                     [](const auto& stage) { return stage->unbiased(); });
}

bool Pipeline::lossless() const {
  return std::all_of(stages_.begin(), stages_.end(),
                     [](const auto& stage) { return stage->lossless(); });
}

Json parse_stages(std::string_view text) {
  Json list = Json::array();
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    std::string_view step = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    const size_t colon = std::min(step.find(':'), step.size());
    Json table = {{"stage", std::string(step.substr(0, colon))}};
    step.remove_prefix(std::min(colon + 1, step.size()));
    while (!step.empty()) {
      const size_t end = std::min(step.find(':'), step.size());
      const std::string_view option = step.substr(0, end);
      if (option.find('=') == std::string_view::npos) {
        fail("codec", "expected option=value after the stage's name, got '", option, "'");
      }
      set_config_value(table, option);
      step.remove_prefix(std::min(end + 1, step.size()));
    }
    list.push_back(std::move(table));
  }
  return list;
}

}  // namespace espalier::codec
