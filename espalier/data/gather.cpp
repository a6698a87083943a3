#include <algorithm>
#include <array>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/data/dataset.h"

namespace espalier::data {

namespace {

// The 256 normalized values of each channel. Up to kInline channels live on the stack, so that a
// batch allocates nothing.
class LookupTable {
 public:
  explicit LookupTable(const Dataset& dataset) {
    const size_t channels = dataset.mean.size();
    float* table = inline_.data();
    if (channels > kInline) {
      heap_.resize(channels * 256);
      table = heap_.data();
    }
    table_ = table;
    for (size_t c = 0; c < channels; ++c) {
      const float mean = dataset.mean[c], stddev = dataset.stddev[c];
      for (int v = 0; v < 256; ++v) *table++ = (static_cast<float>(v) / 255.0f - mean) / stddev;
    }
  }
  LookupTable(const LookupTable&) = delete;
  LookupTable& operator=(const LookupTable&) = delete;

  // `count` whole pixels. The channel count is a constant in the common cases, so that the inner
  // loop unrolls.
  void apply(const uint8_t* in, float* out, size_t count, size_t channels) const {
    switch (channels) {
      case 1:
        return apply_fixed<1>(in, out, count);
      case 3:
        return apply_fixed<3>(in, out, count);
      default:
        for (size_t i = 0; i < count; ++i) {
          for (size_t c = 0; c < channels; ++c) *out++ = table_[256 * c + *in++];
        }
    }
  }

 private:
  static constexpr size_t kInline = 4;

  template <size_t kChannels>
  void apply_fixed(const uint8_t* __restrict in, float* __restrict out, size_t count) const {
    const float* table = table_;
    for (size_t i = 0; i < count; ++i, in += kChannels, out += kChannels) {
      for (size_t c = 0; c < kChannels; ++c) out[c] = table[256 * c + in[c]];
    }
  }

  alignas(64) std::array<float, kInline * 256> inline_;  // filled as far as it is used
  std::vector<float> heap_;
  const float* table_;
};

// The random changes of one image. Drawn in a fixed order; what is off draws nothing.
struct ImageChange {
  int64_t shift_y = 0, shift_x = 0;  // the source pixel of (y, x) is (y + shift_y, x + shift_x)
  bool flip = false;
  int64_t cut_top = 0, cut_bottom = 0, cut_left = 0, cut_right = 0;  // half open; empty when off

  ImageChange(const Augmentation& augmentation, Key key, int64_t height, int64_t width) {
    Stream stream(key);
    if (const int64_t padding = augmentation.crop_padding; padding > 0) {
      const auto places = static_cast<uint64_t>(2 * padding + 1);
      shift_y = static_cast<int64_t>(stream.below(places)) - padding;
      shift_x = static_cast<int64_t>(stream.below(places)) - padding;
    }
    if (augmentation.flip) flip = (stream.u32() & 1) != 0;
    if (const int64_t side = augmentation.cutout; side > 0) {
      // The square's center lies anywhere in the image, so the square may reach over the border
      // (DeVries & Taylor 2017).
      const int64_t top =
          static_cast<int64_t>(stream.below(static_cast<uint64_t>(height))) - side / 2;
      const int64_t left =
          static_cast<int64_t>(stream.below(static_cast<uint64_t>(width))) - side / 2;
      cut_top = std::max<int64_t>(top, 0);
      cut_bottom = std::min(top + side, height);
      cut_left = std::max<int64_t>(left, 0);
      cut_right = std::min(left + side, width);
    }
  }
};

void reverse_pixels(float* row, size_t width, size_t channels) {
  for (size_t a = 0, b = width - 1; a < b; ++a, --b) {
    std::swap_ranges(row + a * channels, row + (a + 1) * channels, row + b * channels);
  }
}

void gather_changed(const LookupTable& table, const uint8_t* image, const ImageChange& change,
                    int64_t height, int64_t width, size_t channels, float* out) {
  const int64_t first =
      std::clamp<int64_t>(-change.shift_x, 0, width);  // columns whose source is inside
  const int64_t last = std::clamp<int64_t>(width - change.shift_x, first, width);
  const size_t row_values = static_cast<size_t>(width) * channels;
  for (int64_t y = 0; y < height; ++y, out += row_values) {
    const int64_t source_y = y + change.shift_y;
    if (source_y < 0 || source_y >= height || first == last) {
      std::fill_n(out, row_values, 0.0f);
      continue;
    }
    const auto left = static_cast<size_t>(first) * channels,
               right = static_cast<size_t>(last) * channels;
    std::fill_n(out, left, 0.0f);
    table.apply(image + static_cast<size_t>(source_y * width + first + change.shift_x) * channels,
                out + left, static_cast<size_t>(last - first), channels);
    std::fill_n(out + right, row_values - right, 0.0f);
    if (change.flip) reverse_pixels(out, static_cast<size_t>(width), channels);
    if (y >= change.cut_top && y < change.cut_bottom) {
      std::fill(out + static_cast<size_t>(change.cut_left) * channels,
                out + static_cast<size_t>(change.cut_right) * channels, 0.0f);
    }
  }
}

void gather_images(const Dataset& dataset, std::span<const uint32_t> indices,
                   const Augmentation* augmentation, Key key, float* out) {
  const auto channels = static_cast<size_t>(dataset.sample_shape[0]);
  const int64_t height = dataset.sample_shape[1], width = dataset.sample_shape[2];
  const size_t values = dataset.sample_size();
  const LookupTable table(dataset);
  const bool change = augmentation != nullptr && augmentation->any();
  for (size_t i = 0; i < indices.size(); ++i, out += values) {
    const uint8_t* image = dataset.pixels.data() + indices[i] * values;
    if (change) {
      gather_changed(table, image, ImageChange(*augmentation, key.child(i), height, width), height,
                     width, channels, out);
    } else {
      table.apply(image, out, values / channels, channels);
    }
  }
}

void check_indices(const Dataset& dataset, std::span<const uint32_t> indices) {
  uint32_t largest = 0;
  for (const uint32_t index : indices) largest = std::max(largest, index);
  ESPALIER_CHECK(indices.empty() || largest < dataset.size(), "index ", largest, " of ",
                 dataset.size(), " samples");
}

}  // namespace

void gather(const Dataset& dataset, std::span<const uint32_t> indices,
            const Augmentation* augmentation, Key key, std::span<float> out) {
  const size_t values = dataset.sample_size();
  check_indices(dataset, indices);
  ESPALIER_CHECK(out.size() == indices.size() * values, out.size(), " values for ", indices.size(),
                 " samples");
  ESPALIER_CHECK(dataset.kind != Kind::kTokens, "tokens are gathered by gather_tokens");
  if (dataset.kind == Kind::kImage) {
    gather_images(dataset, indices, augmentation, key, out.data());
    return;
  }
  for (size_t i = 0; i < indices.size(); ++i) {
    std::memcpy(out.data() + i * values, dataset.floats.data() + indices[i] * values,
                values * sizeof(float));
  }
}

void gather_tokens(const Dataset& dataset, std::span<const uint32_t> indices,
                   std::span<int64_t> out) {
  const size_t values = dataset.sample_size();
  check_indices(dataset, indices);
  ESPALIER_CHECK(dataset.kind == Kind::kTokens);
  ESPALIER_CHECK(out.size() == indices.size() * values, out.size(), " values for ", indices.size(),
                 " samples");
  int64_t* target = out.data();
  for (const uint32_t index : indices)
    target = std::copy_n(dataset.tokens.data() + index * values, values, target);
}

void gather_labels(const Dataset& dataset, std::span<const uint32_t> indices,
                   std::span<int64_t> out) {
  check_indices(dataset, indices);
  ESPALIER_CHECK(out.size() == indices.size(), out.size(), " labels for ", indices.size(),
                 " samples");
  for (size_t i = 0; i < indices.size(); ++i) out[i] = dataset.labels[indices[i]];
}

}  // namespace espalier::data
