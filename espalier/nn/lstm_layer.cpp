#include <algorithm>

#include "espalier/nn/kernels.h"
#include "espalier/nn/layer.h"
#include "espalier/nn/lstm_kernels.h"
#include "espalier/nn/onednn.h"
#include "espalier/nn/packed_product.h"

// One layer of an LSTM (Hochreiter and Schmidhuber 1997 with forget gates, as PyTorch has it) over
// sequences that stand step by step: steps × batch × channels. The products with the input are one
// matrix product for all steps, those with the hidden state one per step, and so backward; the
// gradients of both weights are one product each at the end.
namespace espalier::nn {
namespace {

// In evaluation the input's products are made for as many steps at a time as have this many rows:
// enough for full speed, and the gates of a large batch need no room for all steps.
constexpr int64_t kRowsAtATime = 256;

class LstmLayer final : public Layer {
 public:
  explicit LstmLayer(const LayerContext& c)
      : training_(c.training),
        last_(c.node.last),
        batch_(c.batch),
        steps_(c.node.in.width),
        in_(c.node.in.channels),
        units_(c.node.out.channels),
        weight_(tensor_offset(c.layout, c.node.weight)),
        recurrent_(tensor_offset(c.layout, c.node.recurrent)),
        bias_(tensor_offset(c.layout, c.node.bias)),
        recurrent_bias_(tensor_offset(c.layout, c.node.recurrent_bias)) {
    ESPALIER_CHECK(c.in == Type::kFloat && c.out == Type::kFloat, "LSTMs work in fp32");
    chunk_ = training_ ? steps_ : std::min(steps_, (kRowsAtATime + batch_ - 1) / batch_);
    if (steps_ > 1) product_ = PackedProduct(batch_, 4 * units_, units_);
    place();
  }

  size_t saved_bytes() const override { return saved_; }
  size_t scratch_bytes() const override { return scratch_; }
  size_t owned_bytes() const override { return product_.owned_bytes(); }

  void forward(const Frame& frame) override {
    const float* x = frame.at<float>(slots.x);
    float* bias = scratch(frame, bias_sum_);
    for (int64_t i = 0; i < 4 * units_; ++i) {
      const auto at = static_cast<size_t>(i);
      bias[at] = frame.weights[bias_ + at] + frame.weights[recurrent_bias_ + at];
    }
    std::fill_n(scratch(frame, zeros_), row_, 0.0f);
    if (steps_ > 1) product_.pack(frame.weights + recurrent_, scratch(frame, packed_));
    for (int64_t t = 0; t < steps_; ++t) {
      if (t % chunk_ == 0) {
        gemm('N', 'T', std::min(chunk_, steps_ - t) * batch_, 4 * units_, in_, 1,
             x + t * batch_ * in_, in_, frame.weights + weight_, in_, 0, gates(frame, t),
             4 * units_);
      }
      if (t > 0) product_.run(hidden(frame, t - 1), gates(frame, t));
      lstm_step(static_cast<size_t>(batch_), static_cast<size_t>(units_), bias, cell(frame, t - 1),
                gates(frame, t), cell(frame, t), hidden(frame, t));
    }
  }

  // The state before the first step is zero and has no gradient.
  uint64_t forward_macs() const override { return input_macs() + recurrent_macs(steps_); }
  uint64_t backward_macs() const override {
    return input_macs() * (slots.dx != kNoSlot ? 2 : 1) + 2 * recurrent_macs(steps_ - 1);
  }

  void backward(const Frame& frame) override {
    float* dy = frame.at<float>(slots.dy);
    float* dcell = scratch(frame, dcell_);
    std::fill_n(scratch(frame, zeros_), row_, 0.0f);
    std::fill_n(dcell, row_, 0.0f);
    for (int64_t t = steps_ - 1; t >= 0; --t) {
      // The gradient of the hidden state: what the layer behind gives plus what the next step
      // gives. With `last` the former is there for the last step alone.
      float* dhidden = last_ ? dy : dy + step(t);
      lstm_step_backward(static_cast<size_t>(batch_), static_cast<size_t>(units_), dhidden,
                         cell(frame, t - 1), cell(frame, t), dcell, gates(frame, t));
      if (t > 0) {
        gemm('N', 'N', batch_, units_, 4 * units_, 1, gates(frame, t), 4 * units_,
             frame.weights + recurrent_, units_, last_ ? 0 : 1, last_ ? dy : dy + step(t - 1),
             units_);
      }
    }
    const float* slopes = gates(frame, 0);
    if (slots.dx != kNoSlot) {
      gemm('N', 'N', steps_ * batch_, in_, 4 * units_, 1, slopes, 4 * units_,
           frame.weights + weight_, in_, 0, frame.at<float>(slots.dx), in_);
    }
    column_sums(slopes, static_cast<size_t>(steps_ * batch_), static_cast<size_t>(4 * units_),
                frame.gradients + bias_);
    std::copy_n(frame.gradients + bias_, 4 * units_, frame.gradients + recurrent_bias_);
    weight_gradient(frame, weight_, in_, slopes, frame.at<float>(slots.x), steps_ * batch_);
    weight_gradient(frame, recurrent_, units_, slopes + 4 * step(1), hidden(frame, 0),
                    (steps_ - 1) * batch_);
  }

 private:
  // slopesᵀ·from over `rows` rows, or the weights' update with it.
  void weight_gradient(const Frame& frame, size_t weight, int64_t columns, const float* slopes,
                       const float* from, int64_t rows) const {
    const SgdUpdate* update = frame.update;
    float* out = (update != nullptr ? frame.weights : frame.gradients) + weight;
    const float keep = update != nullptr ? update->keep : 0.0f;
    if (rows == 0) {  // sequences of one token: nothing recurs
      for (int64_t i = 0; i < 4 * units_ * columns; ++i) out[i] = keep == 0 ? 0 : keep * out[i];
      return;
    }
    gemm('T', 'N', 4 * units_, columns, rows, update != nullptr ? -update->rate : 1.0f, slopes,
         4 * units_, from, columns, keep, out, columns);
  }

  // Places in the saved and the scratch area, in bytes; what is missing in one mode is kNoSlot.
  void place() {
    row_ = static_cast<size_t>(batch_ * units_);
    const auto take = [](size_t& area, size_t count) {
      const size_t at = area;
      area += (count * sizeof(float) + 63) / 64 * 64;
      return at;
    };
    const auto all = static_cast<size_t>(steps_);
    bias_sum_ = take(scratch_, static_cast<size_t>(4 * units_));
    zeros_ = take(scratch_, row_);
    packed_ = take(scratch_, product_.packed_bytes() / sizeof(float));
    if (training_) {
      dcell_ = take(scratch_, row_);
      gates_ = take(saved_, 4 * row_ * all);
      cells_ = take(saved_, row_ * all);
      hidden_ = last_ ? take(saved_, row_ * (all - 1)) : kNoSlot;
    } else {
      gates_ = take(scratch_, 4 * row_ * static_cast<size_t>(chunk_));
      cells_ = take(scratch_, 2 * row_);
      hidden_ = last_ ? take(scratch_, 2 * row_) : kNoSlot;
    }
  }
  static float* in_area(const Frame& frame, size_t area, size_t at) {
    return reinterpret_cast<float*>(frame.at<uint8_t>(area) + at);
  }
  float* scratch(const Frame& frame, size_t at) const { return in_area(frame, slots.scratch, at); }
  float* kept(const Frame& frame, size_t at) const {
    return in_area(frame, training_ ? slots.saved : slots.scratch, at);
  }
  int64_t step(int64_t t) const { return t * batch_ * units_; }
  uint64_t input_macs() const { return static_cast<uint64_t>(steps_ * batch_ * 4 * units_ * in_); }
  uint64_t recurrent_macs(int64_t steps) const {
    return static_cast<uint64_t>(steps * batch_ * 4 * units_ * units_);
  }

  // Of step t. Training keeps all steps, evaluation those that the next one reads.
  float* gates(const Frame& frame, int64_t t) const {
    return kept(frame, gates_) + 4 * step(t % chunk_);
  }
  float* cell(const Frame& frame, int64_t t) const {
    if (t < 0) return scratch(frame, zeros_);
    return kept(frame, cells_) + step(training_ ? t : t % 2);
  }
  float* hidden(const Frame& frame, int64_t t) const {
    if (!last_) return frame.at<float>(slots.y) + step(t);
    if (t == steps_ - 1) return frame.at<float>(slots.y);
    return kept(frame, hidden_) + step(training_ ? t : t % 2);
  }

  bool training_, last_;
  int64_t batch_, steps_, in_, units_, chunk_ = 1;
  size_t weight_, recurrent_, bias_, recurrent_bias_;
  size_t row_ = 0, saved_ = 0, scratch_ = 0;
  size_t bias_sum_ = kNoSlot, zeros_ = kNoSlot, packed_ = kNoSlot, dcell_ = kNoSlot;
  size_t gates_ = kNoSlot, cells_ = kNoSlot, hidden_ = kNoSlot;
  PackedProduct product_;
};

}  // namespace

std::unique_ptr<Layer> make_lstm_layer(const LayerContext& context) {
  return std::make_unique<LstmLayer>(context);
}

}  // namespace espalier::nn
