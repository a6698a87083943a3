#include "espalier/codec/pipeline.h"

#include <algorithm>
#include <array>
#include <bit>

#include "espalier/base/config.h"
#include "espalier/codec/blocks.h"
#include "espalier/codec/fwht.h"
#include "espalier/params/parameter_set.h"

namespace espalier::codec {

namespace {

constexpr size_t kMaxStages = 3;      // one of each kind
constexpr size_t kMaxTransforms = 2;  // before the coder

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

// Asks for the first values of the next block, so that they arrive while this one is coded.
void prefetch(std::span<const float> next, size_t size) {
  constexpr size_t kLine = 64 / sizeof(float);
  const size_t count = std::min({next.size(), size, size_t{4096}});
  for (size_t i = 0; i < count; i += kLine) __builtin_prefetch(next.data() + i, 0, 2);
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

template <class Visit>
void Pipeline::for_each_unit(size_t n, Visit&& visit) const {
  if (!stages_.back()->spans_blocks() || block_ == 0) {
    for_each_block(n, block_, visit);
    return;
  }
  for (size_t begin = 0; begin < n; begin += kUnit)
    visit(begin, std::min(kUnit, n - begin), begin / block_);
}

size_t Pipeline::scratch_size(size_t n) const {
  size_t most = 0;
  for_each_unit(n, [&](size_t, size_t unit, size_t) {
    size_t total = 0, widest = 0;
    for_each_block(unit, block_, [&](size_t, size_t size, size_t) {
      for (size_t s = 0; s + 1 < stages_.size(); ++s)
        widest = std::max(widest, size = stages_[s]->output_size(size));
      total += size;
    });
    most = std::max({most, total, widest});
  });
  return most;
}

size_t Pipeline::max_bytes(size_t n) const {
  size_t bytes = 0;
  for_each_unit(n, [&](size_t, size_t unit, size_t) {
    size_t total = 0;
    for_each_block(unit, block_, [&](size_t, size_t size, size_t) {
      for (size_t s = 0; s + 1 < stages_.size(); ++s) {
        bytes += stages_[s]->max_bytes(size);
        size = stages_[s]->output_size(size);
      }
      total += size;
    });
    bytes += stages_.back()->max_bytes(total);
  });
  return bytes;
}

void Pipeline::encode(std::span<const float> x, Key key, std::string_view name, Bytes& out) const {
  const uint32_t limit = lossless() ? kInfinityBits - 1 : std::bit_cast<uint32_t>(kMaxMagnitude);
  const auto check = [&](std::span<const float> values) {
    const uint32_t bits = max_magnitude_bits(values);
    if (bits <= limit) return;
    if (bits >= kInfinityBits)
      fail("codec/encode", "expected finite values, got NaN or infinity (", name, ")");
    fail("codec/encode", "expected magnitudes of at most 2^96, got ", std::bit_cast<float>(bits),
         " (", name, ")");
  };
  const size_t coder = stages_.size() - 1;
  // The coder reads the first buffer; the transform before a sparsifier writes the second.
  const size_t scratch = coder > 0 ? scratch_size(x.size()) : 0;
  AlignedVector<float> coefficients(scratch), between(coder > 1 ? scratch : 0);
  for_each_unit(x.size(), [&](size_t begin, size_t unit, size_t first_block) {
    if (coder == 0) {
      check(x.subspan(begin, unit));
      stages_[0]->encode(x.subspan(begin, unit), key.child(first_block).child(0), {}, out);
      return;
    }
    size_t filled = 0;
    Key first_key(0);
    BlockNotes notes;
    bool one_transform = false;  // the notes are of all the coder's values
    for_each_block(unit, block_, [&](size_t offset, size_t size, size_t index) {
      std::span<const float> in = x.subspan(begin + offset, size);
      const Key block_key = key.child(first_block + index);
      if (index == 0) first_key = block_key;
      notes = {.upcoming = x.subspan(begin + offset + size), .range = {}, .small = false};
      if (!stages_[0]->tells_small()) {
        check(in);
      }
      if (!stages_[coder]->fetches_upcoming()) prefetch(notes.upcoming, size);
      for (size_t s = 0; s < coder; ++s) {
        const bool last = s + 1 == coder;
        const auto next = (last ? std::span(coefficients).subspan(filled) : std::span(between))
                              .first(stages_[s]->output_size(in.size()));
        if (s == 0) {
          stages_[s]->encode_noted(in, block_key.child(s), next, out, notes);
          // A sparsifier or coder may not survive NaN, so the look back comes first.
          if (stages_[0]->tells_small() && !notes.small) check(in);
        } else {
          stages_[s]->encode(in, block_key.child(s), next, out);
        }
        in = next;
      }
      one_transform = coder == 1 && size == unit;
      filled += in.size();
    });
    if (!one_transform) notes.range.reset();
    stages_[coder]->encode_noted(std::span(coefficients).first(filled), first_key.child(coder), {},
                                 out, notes);
  });
}

uint32_t Pipeline::decode(ByteReader& reader, Key key, std::string_view name,
                          std::span<float> out) const {
  uint32_t largest = 0;
  const auto check = [&](std::span<const float> values) {
    largest = std::max(largest, max_magnitude_bits(values));
    if (largest >= kInfinityBits)
      fail(reader.where(), "a decoded value is not finite (", name, ")");
  };
  const size_t coder = stages_.size() - 1;
  const size_t scratch = coder > 0 ? scratch_size(out.size()) : 0;
  AlignedVector<float> coefficients(scratch), between(coder > 1 ? scratch : 0);
  using Taken = std::array<std::span<const uint8_t>, kMaxTransforms>;
  std::vector<Taken> taken;
  for_each_unit(out.size(), [&](size_t begin, size_t unit, size_t first_block) {
    if (coder == 0) {
      const auto target = out.subspan(begin, unit);
      stages_[0]->decode({}, stages_[0]->take(reader, unit), key.child(first_block).child(0),
                         target);
      check(target);
      return;
    }
    // In the order of the bytes first, then backwards through the stages.
    size_t total = 0;
    taken.clear();
    for_each_block(unit, block_, [&](size_t, size_t size, size_t) {
      Taken& bytes = taken.emplace_back();
      for (size_t s = 0; s < coder; ++s) {
        bytes[s] = stages_[s]->take(reader, size);
        size = stages_[s]->output_size(size);
      }
      total += size;
    });
    const auto all = std::span(coefficients).first(total);
    stages_[coder]->decode({}, stages_[coder]->take(reader, total),
                           key.child(first_block).child(coder), all);
    size_t used = 0;
    for_each_block(unit, block_, [&](size_t offset, size_t size, size_t index) {
      const Key block_key = key.child(first_block + index);
      const auto target = out.subspan(begin + offset, size);
      if (coder == 2) {
        const size_t wide = stages_[0]->output_size(size), narrow = stages_[1]->output_size(wide);
        const auto middle = std::span(between).first(wide);
        stages_[1]->decode(all.subspan(used, narrow), taken[index][1], block_key.child(1), middle);
        stages_[0]->decode(middle, taken[index][0], block_key.child(0), target);
        used += narrow;
      } else {
        const size_t wide = stages_[0]->output_size(size);
        stages_[0]->decode(all.subspan(used, wide), taken[index][0], block_key.child(0), target);
        used += wide;
      }
      check(target);
    });
  });
  return largest;
}

bool Pipeline::plain() const {
  return steps_.empty() || (steps_.size() == 1 && steps_[0].row->kind == StageKind::kIdentity);
}

bool Pipeline::unbiased() const {
  return std::all_of(stages_.begin(), stages_.end(),
                     [](const auto& stage) { return stage->unbiased(); });
}

bool Pipeline::lossless() const {
  return std::all_of(stages_.begin(), stages_.end(),
                     [](const auto& stage) { return stage->lossless(); });
}

bool Pipeline::spreads() const {
  return !steps_.empty() && steps_[0].row->kind == StageKind::kTransform;
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
