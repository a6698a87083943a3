#include <algorithm>
#include <array>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/base/simd.h"
#include "espalier/data/dataset.h"

namespace espalier::data {

namespace {

// x = pixel·scale + shift, with the coefficients repeated so often that a block of kBlock values
// starts with the first channel and the loop over it vectorizes.
class Normalizer {
 public:
  explicit Normalizer(const Dataset& dataset)
      : block_(kBlock / dataset.mean.size() * dataset.mean.size()) {
    const size_t channels = dataset.mean.size();
    if (block_ == 0) {  // more channels than a block holds: one pixel is a block
      block_ = channels;
      heap_.resize(2 * channels);
    }
    float* scale = heap_.empty() ? inline_.data() : heap_.data();
    float* shift = scale + block_;
    for (size_t i = 0; i < block_; ++i) {
      const size_t c = i % channels;
      scale[i] = 1.0f / (255.0f * dataset.stddev[c]);
      shift[i] = -dataset.mean[c] / dataset.stddev[c];
    }
    scale_ = scale;
    shift_ = shift;
  }
  Normalizer(const Normalizer&) = delete;
  Normalizer& operator=(const Normalizer&) = delete;

  // `count` values, beginning with the first channel of a pixel.
  void apply(const uint8_t* in, float* out, size_t count) const {
    run(in, out, count, block_, scale_, shift_);
  }

 private:
  static constexpr size_t kBlock = 96;  // a multiple of 1, 2, 3, 4, 6, 8 channels and of 16 lanes

  ESPALIER_KERNEL static void run(const uint8_t* __restrict in, float* __restrict out, size_t count,
                                  size_t block, const float* __restrict scale,
                                  const float* __restrict shift) {
    while (count >= kBlock && block == kBlock) {
      for (size_t i = 0; i < kBlock; ++i) out[i] = static_cast<float>(in[i]) * scale[i] + shift[i];
      in += kBlock;
      out += kBlock;
      count -= kBlock;
    }
    for (size_t i = 0, at = 0; i < count; ++i) {
      out[i] = static_cast<float>(in[i]) * scale[at] + shift[at];
      if (++at == block) at = 0;
    }
  }

  size_t block_;
  alignas(64) std::array<float, 2 * kBlock> inline_;
  std::vector<float> heap_;
  const float *scale_, *shift_;
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

// Pixels as a net reads them.
class NormalizedPixels {
 public:
  NormalizedPixels(const Normalizer& normalizer, const uint8_t* image)
      : normalizer_(normalizer), image_(image) {}
  void copy(size_t at, float* out, size_t count) const {
    normalizer_.apply(image_ + at, out, count);
  }

 private:
  const Normalizer& normalizer_;
  const uint8_t* image_;
};

// One channel of a float image.
class Plane {
 public:
  explicit Plane(const float* values) : values_(values) {}
  void copy(size_t at, float* out, size_t count) const { std::copy_n(values_ + at, count, out); }

 private:
  const float* values_;
};

void reverse_pixels(float* row, size_t width, size_t channels) {
  for (size_t a = 0, b = width - 1; a < b; ++a, --b) {
    std::swap_ranges(row + a * channels, row + (a + 1) * channels, row + b * channels);
  }
}

// Whole pixels from begin to end.
void blank(float* begin, float* end, std::span<const float> fill) {
  if (fill.size() == 1) {
    std::fill(begin, end, fill[0]);
    return;
  }
  for (; begin < end; begin += fill.size()) std::copy(fill.begin(), fill.end(), begin);
}

// `source` copies whole pixels; those from outside the image are `fill`, a value per channel or one
// for all.
template <class Source>
void gather_changed(const Source& source, const ImageChange& change, int64_t height, int64_t width,
                    size_t channels, std::span<const float> fill, float* out) {
  const int64_t first =
      std::clamp<int64_t>(-change.shift_x, 0, width);  // columns whose source is inside
  const int64_t last = std::clamp<int64_t>(width - change.shift_x, first, width);
  const size_t row_values = static_cast<size_t>(width) * channels;
  for (int64_t y = 0; y < height; ++y, out += row_values) {
    const int64_t source_y = y + change.shift_y;
    if (source_y < 0 || source_y >= height || first == last) {
      blank(out, out + row_values, fill);
      continue;
    }
    const auto left = static_cast<size_t>(first) * channels,
               right = static_cast<size_t>(last) * channels;
    blank(out, out + left, fill);
    source.copy(static_cast<size_t>(source_y * width + first + change.shift_x) * channels,
                out + left, right - left);
    blank(out + right, out + row_values, fill);
    if (change.flip) reverse_pixels(out, static_cast<size_t>(width), channels);
    if (y >= change.cut_top && y < change.cut_bottom) {
      blank(out + static_cast<size_t>(change.cut_left) * channels,
            out + static_cast<size_t>(change.cut_right) * channels, fill);
    }
  }
}

// What blanks the given channels, or all of them.
std::span<const float> fill_of(const Dataset& dataset, size_t first, size_t count) {
  static constexpr float kZero = 0;
  if (dataset.fill.empty()) return {&kZero, 1};
  return std::span(dataset.fill).subspan(first, count);
}

void gather_images(const Dataset& dataset, std::span<const uint32_t> indices,
                   const Augmentation* augmentation, Key key, float* out) {
  const auto channels = static_cast<size_t>(dataset.sample_shape[0]);
  const int64_t height = dataset.sample_shape[1], width = dataset.sample_shape[2];
  const size_t values = dataset.sample_size();
  const Normalizer normalizer(dataset);
  const bool change = augmentation != nullptr && augmentation->any();
  for (size_t i = 0; i < indices.size(); ++i, out += values) {
    const uint8_t* image = dataset.pixels.data() + indices[i] * values;
    if (change) {
      gather_changed(NormalizedPixels(normalizer, image),
                     ImageChange(*augmentation, key.child(i), height, width), height, width,
                     channels, fill_of(dataset, 0, channels), out);
    } else {
      normalizer.apply(image, out, values);
    }
  }
}

// Float images, channel by channel.
void gather_changed_floats(const Dataset& dataset, std::span<const uint32_t> indices,
                           const Augmentation& augmentation, Key key, float* out) {
  const auto channels = static_cast<size_t>(dataset.sample_shape[0]);
  const int64_t height = dataset.sample_shape[1], width = dataset.sample_shape[2];
  const size_t values = dataset.sample_size(), plane = values / channels;
  std::vector<float> fetched(dataset.fetch ? values : 0);
  for (size_t i = 0; i < indices.size(); ++i) {
    if (dataset.fetch) dataset.fetch(indices[i], fetched);
    const float* image =
        dataset.fetch ? fetched.data() : dataset.floats.data() + indices[i] * values;
    const ImageChange change(augmentation, key.child(i), height, width);
    for (size_t c = 0; c < channels; ++c, out += plane) {
      gather_changed(Plane(image + c * plane), change, height, width, 1, fill_of(dataset, c, 1),
                     out);
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
  if (augmentation != nullptr && augmentation->any() && dataset.has_images()) {
    gather_changed_floats(dataset, indices, *augmentation, key, out.data());
    return;
  }
  if (dataset.fetch) {
    for (size_t i = 0; i < indices.size(); ++i)
      dataset.fetch(indices[i], out.subspan(i * values, values));
    return;
  }
  for (size_t i = 0; i < indices.size(); ++i) {
    std::memcpy(out.data() + i * values, dataset.floats.data() + indices[i] * values,
                values * sizeof(float));
  }
}

float largest_input(const Dataset& dataset, std::span<const uint32_t> samples) {
  if (dataset.kind == Kind::kTokens) return 0;
  const size_t size = dataset.sample_size();
  std::vector<float> values(size);
  float largest = 0;
  for (const uint32_t sample : samples) {
    gather(dataset, {&sample, 1}, nullptr, Key(0), values);
    for (const float value : values) largest = std::max(largest, std::abs(value));
  }
  return largest;
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
