#include "espalier/nn/gated_kernels.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/nn/lanes.h"

namespace espalier::nn {
namespace {

constexpr size_t kRowsPerSum = 256;  // added up in one go, so that long sums keep their digits

// R rows of a tile.
template <size_t R, class Body>
ESPALIER_INLINE void step_rows(Body& body, size_t offset, size_t stride) {
  for (size_t r = 0; r < R; ++r) {
    for (size_t k = 0; k < Body::kWide; ++k)
      body.step(offset + r * stride + k * kLanes, k, r * Body::kWide + k);
  }
}

// Walks a sample in tiles of up to four vectors of channels side by side, fewer of them over more
// rows, so that four sums are always under way and a tile's tables stay in registers over its rows.
// A body is for `W` vectors and has start(channel), which loads its tables, step(at, k, slot) for
// one vector, the tile's k-th from the left, which adds to sum `slot`, fold() after kRowsPerSum
// rows, finish(channel), and for the channels at the end that fill no vector scalar(offset,
// channel, first, second), which adds to a channel's sums, and take(channel, first, second).
template <class Body, class In>
ESPALIER_INLINE void walk_tile(const GatedShape& s, size_t channel, const In& in) {
  constexpr size_t kTall = 4 / Body::kWide;
  Body body(in);
  body.start(channel);
  for (size_t begin = 0; begin < s.rows; begin += kRowsPerSum) {
    const size_t end = std::min(s.rows, begin + kRowsPerSum);
    size_t r = begin;
    for (; r + kTall <= end; r += kTall)
      step_rows<kTall>(body, r * s.channels + channel, s.channels);
    for (; r < end; ++r) step_rows<1>(body, r * s.channels + channel, s.channels);
    body.fold();
  }
  body.finish(channel);
}

template <template <class, class, size_t> class Body, class Lanes, class T, class In>
ESPALIER_INLINE void walk(const GatedShape& s, const In& in) {
  size_t c = 0;
  for (; c + 4 * kLanes <= s.channels; c += 4 * kLanes) walk_tile<Body<Lanes, T, 4>>(s, c, in);
  for (; c + 2 * kLanes <= s.channels; c += 2 * kLanes) walk_tile<Body<Lanes, T, 2>>(s, c, in);
  for (; c + kLanes <= s.channels; c += kLanes) walk_tile<Body<Lanes, T, 1>>(s, c, in);
  if (c == s.channels) return;
  Body<Lanes, T, 1> body(in);
  float first[kLanes] = {}, second[kLanes] = {};
  for (size_t r = 0; r < s.rows; ++r) {
    for (size_t i = c; i < s.channels; ++i)
      body.scalar(r * s.channels + i, i, first[i - c], second[i - c]);
  }
  for (size_t i = c; i < s.channels; ++i) body.take(i, first[i - c], second[i - c]);
}

// Rows that fill no vectors, joined to lines that do where they are short and their number allows
// it: a narrow net's rows of 8 channels would be walked value by value. Tables are repeated over a
// line, and sums over its parts are added up.
class JoinedRows {
 public:
  explicit JoinedRows(const GatedShape& s) : channels_(s.channels), shape_(s) {
    size_t repeat = 1;
    while (s.channels * repeat % kLanes != 0 && s.rows % (repeat * 2) == 0) repeat *= 2;
    if (s.channels * repeat % kLanes != 0 || s.channels * repeat > kLongest) return;
    shape_ = {s.rows / repeat, s.channels * repeat};
  }
  const GatedShape& shape() const { return shape_; }

  // The table over a line; null stays null.
  const float* table(const float* from) {
    if (from == nullptr || !joined()) return from;
    float* to = room();
    for (size_t i = 0; i < shape_.channels; i += channels_) std::copy_n(from, channels_, to + i);
    return to;
  }
  // Where a line's sums go, whose parts add_up() adds up in `to`; null stays null.
  float* sums(float* to) { return to == nullptr || !joined() ? to : room(); }
  void add_up(const float* from, float* to) const {
    if (from == to) return;
    for (size_t c = 0; c < channels_; ++c) {
      float sum = 0;
      for (size_t i = c; i < shape_.channels; i += channels_) sum += from[i];
      to[c] = sum;
    }
  }

 private:
  static constexpr size_t kLongest = 256, kTables = 5;

  bool joined() const { return shape_.channels != channels_; }
  float* room() {
    ESPALIER_CHECK(used_ < kTables, "too many tables");
    return tables_[used_++].data();
  }

  size_t channels_;
  GatedShape shape_;
  size_t used_ = 0;
  std::array<std::array<float, kLongest>, kTables> tables_;
};

// The sums of a tile: four under way, for one or more rows of W channels' vectors.
template <class Lanes, size_t W>
struct Sums {
  Lanes part[4] = {}, whole[W] = {};
  ESPALIER_INLINE void fold() {
    for (size_t i = 0; i < 4; ++i) {
      whole[i % W] += part[i];
      part[i] = Lanes{};
    }
  }
};

// What a body without sums has in their place.
struct NoSums {
  ESPALIER_INLINE void fold() {}
  ESPALIER_INLINE void finish(size_t) {}
  ESPALIER_INLINE void take(size_t, float, float) {}
};

struct MeansIn {
  const void* x;
  float* means;
  float inverse_rows;
};
template <class Lanes, class T, size_t W>
struct Means {
  static constexpr size_t kWide = W;
  MeansIn in;
  Sums<Lanes, W> sum;
  ESPALIER_INLINE explicit Means(const MeansIn& from) : in(from) {}
  ESPALIER_INLINE void start(size_t) {}
  ESPALIER_INLINE void step(size_t at, size_t, size_t slot) {
    Lanes v;
    load(static_cast<const T*>(in.x) + at, v);
    sum.part[slot] += v;
  }
  ESPALIER_INLINE void fold() { sum.fold(); }
  ESPALIER_INLINE void finish(size_t c) {
    for (size_t k = 0; k < W; ++k) store(sum.whole[k] * in.inverse_rows, in.means + c + k * kLanes);
  }
  ESPALIER_INLINE void scalar(size_t offset, size_t, float& first, float&) {
    first += to_float(static_cast<const T*>(in.x)[offset]);
  }
  ESPALIER_INLINE void take(size_t c, float first, float) { in.means[c] = first * in.inverse_rows; }
};

template <class T>
struct AffineIn {
  GatedAffine<T> g;
  float floor;
  T* y;
  float inverse_rows;
};
template <class Lanes, class T, size_t W>
struct Affine {
  static constexpr size_t kWide = W;
  AffineIn<T> in;
  Sums<Lanes, W> sum;
  Lanes a[W] = {}, b[W] = {};
  ESPALIER_INLINE explicit Affine(const AffineIn<T>& from) : in(from) {}
  ESPALIER_INLINE void start(size_t c) {
    for (size_t k = 0; k < W; ++k) {
      load(in.g.a + c + k * kLanes, a[k]);
      load(in.g.b + c + k * kLanes, b[k]);
    }
  }
  ESPALIER_INLINE void step(size_t at, size_t k, size_t slot) {
    Lanes v;
    load(in.g.x + at, v);
    v = a[k] * v + b[k];
    if (in.g.residual != nullptr) {
      Lanes add;
      load(in.g.residual + at, add);
      v += add;
    }
    const Lanes floor = broadcast<Lanes>(in.floor);
    v = select_greater(floor, v, floor, v);
    store(v, in.y + at);
    sum.part[slot] += v;
  }
  ESPALIER_INLINE void fold() { sum.fold(); }
  ESPALIER_INLINE void finish(size_t c) {
    if (in.g.means == nullptr) return;
    for (size_t k = 0; k < W; ++k)
      store(sum.whole[k] * in.inverse_rows, in.g.means + c + k * kLanes);
  }
  ESPALIER_INLINE void scalar(size_t offset, size_t c, float& first, float&) {
    float v = in.g.a[c] * to_float(in.g.x[offset]) + in.g.b[c];
    if (in.g.residual != nullptr) v += to_float(in.g.residual[offset]);
    v = v < in.floor ? in.floor : v;
    put(in.y[offset], v);
    first += v;
  }
  ESPALIER_INLINE void take(size_t c, float first, float) {
    if (in.g.means != nullptr) in.g.means[c] = first * in.inverse_rows;
  }
};

template <class T>
struct GradientIn {
  GatedGradient<T> g;
  T* dy;
};
template <class Lanes, class T, size_t W>
struct Gradient {
  static constexpr size_t kWide = W;
  GradientIn<T> in;
  Sums<Lanes, W> sum, product;
  Lanes even[W] = {}, center[W] = {}, scale[W] = {};
  ESPALIER_INLINE explicit Gradient(const GradientIn<T>& from) : in(from) {}
  ESPALIER_INLINE void start(size_t c) {
    for (size_t k = 0; k < W; ++k) {
      even[k] = center[k] = Lanes{};
      scale[k] = broadcast<Lanes>(1.0f);
      if (in.g.even != nullptr) load(in.g.even + c + k * kLanes, even[k]);
      if (in.g.center != nullptr) load(in.g.center + c + k * kLanes, center[k]);
      if (in.g.scale != nullptr) load(in.g.scale + c + k * kLanes, scale[k]);
    }
  }
  ESPALIER_INLINE void step(size_t at, size_t k, size_t slot) {
    Lanes g, v;
    load(in.dy + at, g);
    if (in.g.more != nullptr) {
      load(in.g.more + at, v);
      g += v;
    }
    g += even[k];
    if (in.g.y != nullptr) {
      load(in.g.y + at, v);
      g = keep_greater(g, v, 0.0f);
    }
    load(in.g.x + at, v);
    sum.part[slot] += g;
    product.part[slot] += g * (v - center[k]);
    store(scale[k] * g, in.dy + at);
  }
  ESPALIER_INLINE void fold() {
    sum.fold();
    product.fold();
  }
  ESPALIER_INLINE void finish(size_t c) {
    for (size_t k = 0; k < W; ++k) {
      store(sum.whole[k], in.g.sum + c + k * kLanes);
      store(product.whole[k], in.g.product + c + k * kLanes);
    }
  }
  ESPALIER_INLINE void scalar(size_t offset, size_t c, float& first, float& second) {
    float g = to_float(in.dy[offset]);
    if (in.g.more != nullptr) g += to_float(in.g.more[offset]);
    if (in.g.even != nullptr) g += in.g.even[c];
    if (in.g.y != nullptr) g = to_float(in.g.y[offset]) > 0 ? g : 0.0f;
    const float middle = in.g.center != nullptr ? in.g.center[c] : 0.0f;
    first += g;
    second += g * (to_float(in.g.x[offset]) - middle);
    put(in.dy[offset], in.g.scale != nullptr ? in.g.scale[c] * g : g);
  }
  ESPALIER_INLINE void take(size_t c, float first, float second) {
    in.g.sum[c] = first;
    in.g.product[c] = second;
  }
};

template <class T>
struct InputGradientIn {
  const T *dz, *x;
  const float *a, *b, *d;
  T* dx;
};
template <class Lanes, class T, size_t W>
struct InputGradient : NoSums {
  static constexpr size_t kWide = W;
  InputGradientIn<T> in;
  Lanes a[W] = {}, b[W] = {}, d[W] = {};
  ESPALIER_INLINE explicit InputGradient(const InputGradientIn<T>& from) : in(from) {}
  ESPALIER_INLINE void start(size_t c) {
    for (size_t k = 0; k < W; ++k) {
      load(in.a + c + k * kLanes, a[k]);
      load(in.b + c + k * kLanes, b[k]);
      load(in.d + c + k * kLanes, d[k]);
    }
  }
  ESPALIER_INLINE void step(size_t at, size_t k, size_t) {
    Lanes g, v;
    load(in.dz + at, g);
    load(in.x + at, v);
    store(a[k] * g + (b[k] * v + d[k]), in.dx + at);
  }
  ESPALIER_INLINE void scalar(size_t offset, size_t c, float&, float&) {
    put(in.dx[offset],
        in.a[c] * to_float(in.dz[offset]) + (in.b[c] * to_float(in.x[offset]) + in.d[c]));
  }
};

struct EvenIn {
  const float* even;
  void* y;
};
template <class Lanes, class T, size_t W>
struct Even : NoSums {
  static constexpr size_t kWide = W;
  EvenIn in;
  Lanes even[W] = {};
  ESPALIER_INLINE explicit Even(const EvenIn& from) : in(from) {}
  ESPALIER_INLINE void start(size_t c) {
    for (size_t k = 0; k < W; ++k) load(in.even + c + k * kLanes, even[k]);
  }
  ESPALIER_INLINE void step(size_t at, size_t k, size_t) {
    T* y = static_cast<T*>(in.y) + at;
    Lanes v;
    load(y, v);
    store(v + even[k], y);
  }
  ESPALIER_INLINE void scalar(size_t offset, size_t c, float&, float&) {
    T* at = static_cast<T*>(in.y) + offset;
    put(*at, to_float(*at) + in.even[c]);
  }
};

template <class T>
void means_of(const T* x, size_t rows, size_t channels, float* means) {
  JoinedRows lines({rows, channels});
  const MeansIn in{x, lines.sums(means), 1.0f / static_cast<float>(rows)};
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { walk<Means, Lanes, T>(lines.shape(), in); });
  lines.add_up(in.means, means);
}

template <class T>
void affine_of(const GatedShape& shape, const GatedAffine<T>& given, T* y) {
  JoinedRows lines(shape);
  AffineIn<T> in{given, given.relu ? 0.0f : -INFINITY, y, 1.0f / static_cast<float>(shape.rows)};
  in.g.a = lines.table(given.a);
  in.g.b = lines.table(given.b);
  in.g.means = lines.sums(given.means);
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { walk<Affine, Lanes, T>(lines.shape(), in); });
  lines.add_up(in.g.means, given.means);
}

template <class T>
void gradient_sums_of(const GatedShape& shape, const GatedGradient<T>& given, T* dy) {
  JoinedRows lines(shape);
  GradientIn<T> in{given, dy};
  in.g.even = lines.table(given.even);
  in.g.center = lines.table(given.center);
  in.g.scale = lines.table(given.scale);
  in.g.sum = lines.sums(given.sum);
  in.g.product = lines.sums(given.product);
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { walk<Gradient, Lanes, T>(lines.shape(), in); });
  lines.add_up(in.g.sum, given.sum);
  lines.add_up(in.g.product, given.product);
}

template <class T>
void input_gradient_of(const GatedShape& shape, InputGradientIn<T> in) {
  JoinedRows lines(shape);
  in.a = lines.table(in.a);
  in.b = lines.table(in.b);
  in.d = lines.table(in.d);
  with_lanes([&]<class Lanes>() __attribute__((always_inline)) {
    walk<InputGradient, Lanes, T>(lines.shape(), in);
  });
}

template <class T>
void add_even_of(const GatedShape& shape, const float* even, T* y) {
  JoinedRows lines(shape);
  const EvenIn in{lines.table(even), y};
  with_lanes([&]<class Lanes>()
                 __attribute__((always_inline)) { walk<Even, Lanes, T>(lines.shape(), in); });
}

}  // namespace

void channel_means(const float* x, size_t rows, size_t channels, float* means) {
  means_of(x, rows, channels, means);
}
void channel_means(const Bf16* x, size_t rows, size_t channels, float* means) {
  means_of(x, rows, channels, means);
}

void gated_affine(const GatedShape& shape, const GatedAffine<float>& in, float* y) {
  affine_of(shape, in, y);
}
void gated_affine(const GatedShape& shape, const GatedAffine<Bf16>& in, Bf16* y) {
  affine_of(shape, in, y);
}
void gated_gradient_sums(const GatedShape& shape, const GatedGradient<float>& in, float* dy) {
  gradient_sums_of(shape, in, dy);
}
void gated_gradient_sums(const GatedShape& shape, const GatedGradient<Bf16>& in, Bf16* dy) {
  gradient_sums_of(shape, in, dy);
}
void gated_input_gradient(const GatedShape& shape, const float* dz, const float* x, const float* a,
                          const float* b, const float* d, float* dx) {
  input_gradient_of<float>(shape, {dz, x, a, b, d, dx});
}
void gated_input_gradient(const GatedShape& shape, const Bf16* dz, const Bf16* x, const float* a,
                          const float* b, const float* d, Bf16* dx) {
  input_gradient_of<Bf16>(shape, {dz, x, a, b, d, dx});
}
void add_even(const GatedShape& shape, const float* even, float* y) { add_even_of(shape, even, y); }
void add_even(const GatedShape& shape, const float* even, Bf16* y) { add_even_of(shape, even, y); }

}  // namespace espalier::nn
