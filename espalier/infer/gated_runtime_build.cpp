#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>
#include <numeric>

#include "espalier/infer/gated_runtime_net.h"
#include "espalier/nn/arena.h"
#include "espalier/nn/gates.h"

// Makes the steps of a GatedNet from a Graph and its weights.
namespace espalier::infer {
namespace {

constexpr int64_t kFlattenedPixels = 8;
constexpr size_t kPage = size_t{2} << 20;

std::span<const float> tensor(const ParameterSet& weights, int index) {
  return weights.values(weights.layout().tensors()[static_cast<size_t>(index)]);
}

std::vector<float> copy(std::span<const float> values) { return {values.begin(), values.end()}; }

size_t as_size(int64_t value) { return static_cast<size_t>(value); }

}  // namespace

LargePages::LargePages(size_t size) {
  const size_t bytes = (std::max<size_t>(size, 1) * sizeof(float) + kPage - 1) / kPage * kPage;
  void* block = std::aligned_alloc(kPage, bytes);
  if (block == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(block, bytes, MADV_HUGEPAGE);  // advice: refused, the pages are small
#endif
  values_.reset(static_cast<float*>(block));
  std::fill_n(values_.get(), bytes / sizeof(float), 0.0f);
}

void LargePages::Free::operator()(float* values) const { std::free(values); }

GatedNet::GatedNet(Graph graph, const ParameterSet& weights) : graph_(std::move(graph)) {
  if (weights.layout() != *graph_.layout)
    fail("train/gated", "the weights are not those of this model; use the run's own configuration");
  build(weights);
}

const float* GatedNet::store(std::span<const float> values) {
  float* to = pages_->data() + stored_;
  std::copy(values.begin(), values.end(), to);
  stored_ += plane_size(values.size() + kWeightSlack);
  return to;
}

int GatedNet::only_reader(int node) const {
  int reader = kNone;
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const Node& n = graph_.nodes[i];
    if (n.input != node && n.residual != node && n.gate != node) continue;
    if (reader != kNone || n.input != node) return kNone;
    reader = static_cast<int>(i);
  }
  return reader;
}

GatedNet::Gate GatedNet::make_gate(const Node& n, const ParameterSet& weights) {
  const auto a = tensor(weights, n.weight);
  const size_t rows = as_size(n.out.channels), columns = as_size(n.in.channels);
  Gate gate;
  std::vector<float> turned(a.size());
  gate.bias = copy(tensor(weights, n.bias));
  for (size_t o = 0; o < rows; ++o) {
    for (size_t c = 0; c < columns; ++c) {
      turned[c * rows + o] = a[o * columns + c];
      if (n.sigmoid) gate.bias[o] += 0.5f * a[o * columns + c];
    }
  }
  gate.columns = store(turned);
  gate.survivors = as_size(salient_channels(tensor(weights, n.counter)[0], n.out.channels));
  gate.means.resize(columns);
  gate.values.resize(rows);
  return gate;
}

GatedNet::Step GatedNet::norm_step(int index, const ParameterSet& weights) {
  const Node& n = node(index);
  const size_t channels = as_size(n.out.channels);
  Step step{.op = n.op, .node = index, .input = n.input, .target = index};
  step.gate = n.gate;
  step.residual = n.residual;
  step.relu = n.relu;
  step.scale =
      n.weight == kNone ? std::vector<float>(channels, 1.0f) : copy(tensor(weights, n.weight));
  // A gated normalization without a weight is that of mode "fbs": its shift is not scaled.
  const bool fbs = n.gate != kNone && n.weight == kNone;
  (fbs ? step.late : step.shift) = copy(tensor(weights, n.bias));
  if (fbs) step.shift.assign(channels, 0.0f);
  if (n.op == Op::kBatchNorm) {
    const auto mean = tensor(weights, n.mean), variance = tensor(weights, n.variance);
    for (size_t c = 0; c < channels; ++c) {
      const double scale =
          static_cast<double>(step.scale[c]) /
          std::sqrt(static_cast<double>(variance[c]) + static_cast<double>(kNormEpsilon));
      step.shift[c] = static_cast<float>(static_cast<double>(step.shift[c]) -
                                         scale * static_cast<double>(mean[c]));
      step.scale[c] = static_cast<float>(scale);
    }
  } else {
    step.group = channels / as_size(n.groups);
  }
  return step;
}

void GatedNet::fold(Step& step, const ParameterSet& weights) {
  const int next = only_reader(step.node);
  if (next == kNone) return;
  const Node &conv = node(step.node), &n = node(next);
  if (n.op == Op::kBatchNorm && !conv.relu) {
    const Step norm = norm_step(next, weights);
    for (size_t c = 0; c < step.scale.size(); ++c) {
      step.shift[c] = norm.shift[c] + norm.scale[c] * step.shift[c];
      step.scale[c] = norm.scale[c];
    }
    step.late = norm.late;
    step.gate = norm.gate;
    step.residual = norm.residual;
    step.relu = norm.relu;
    step.target = next;
  } else if (n.op == Op::kGroupNorm && n.gate != kNone) {
    step.gate = n.gate;
    step.scaled = false;
    step.group = as_size(n.out.channels / n.groups);
  } else if (n.op == Op::kScale || n.op == Op::kMaxPool) {
    const int scale = n.op == Op::kScale ? next : only_reader(next);
    if (scale == kNone || node(scale).op != Op::kScale) return;
    // Scaling by what is not negative commutes with ReLU and max-pooling.
    step.gate = node(scale).gate;
    step.relu = conv.relu || node(scale).relu;
    if (node(scale).bias != kNone) step.late = copy(tensor(weights, node(scale).bias));
    if (scale == next) {
      step.target = scale;
    } else {
      alias_[static_cast<size_t>(scale)] = next;
    }
  }
}

GatedNet::Step GatedNet::conv_step(int index, const ParameterSet& weights) {
  const Node& n = node(index);
  const size_t channels = as_size(n.out.channels);
  Step step{.op = Op::kConv, .node = index, .input = n.input, .target = index};
  step.relu = n.relu;
  step.scale.assign(channels, 1.0f);
  step.shift = n.bias == kNone ? std::vector<float>(channels, 0.0f) : copy(tensor(weights, n.bias));
  step.weights = store(tensor(weights, n.weight));
  step.plan = std::make_shared<const SparsePlan>(
      SparseShape{as_size(n.in.channels), as_size(n.in.height), as_size(n.in.width), channels,
                  as_size(n.out.height), as_size(n.out.width), as_size(n.kernel), as_size(n.stride),
                  as_size(n.padding)});
  fold(step, weights);
  return step;
}

void GatedNet::build(const ParameterSet& weights) {
  const size_t count = graph_.nodes.size();
  size_t room = 0;
  for (const Node& n : graph_.nodes) {
    if (n.op == Op::kConv || n.op == Op::kLinear || n.op == Op::kGate)
      room += plane_size(tensor(weights, n.weight).size() + kWeightSlack);
  }
  pages_ = std::make_unique<LargePages>(room);
  alias_.resize(count);
  std::iota(alias_.begin(), alias_.end(), 0);
  // A convolution with what is folded into it runs in the last one's place: a residual may be
  // computed between the two.
  std::map<int, Step> later;
  std::vector<bool> made(count, false);
  for (size_t i = 0; i < count; ++i) {
    const auto index = static_cast<int>(i);
    const Node& n = graph_.nodes[i];
    if (const auto found = later.find(index); found != later.end()) {
      steps_.push_back(std::move(found->second));
      continue;
    }
    if (resolve(index) != index) continue;
    Step step{.op = n.op, .node = index, .input = n.input, .target = index};
    step.relu = n.relu;
    switch (n.op) {
      case Op::kConv:
        step = conv_step(index, weights);
        break;
      case Op::kBatchNorm:
      case Op::kGroupNorm:
        step = norm_step(index, weights);
        break;
      case Op::kGate:
        gates_[index] = make_gate(n, weights);
        break;
      case Op::kLinear:
        step.weights = store(tensor(weights, n.weight));
        step.shift = copy(tensor(weights, n.bias));
        break;
      case Op::kScale:
        ESPALIER_CHECK(false, "a gate scales what is no convolution");
        break;
      case Op::kFlatten:
        // Large maps stay planes: a linear layer then leaves out channels.
        if (n.in.pixels() >= kFlattenedPixels) alias_[i] = resolve(n.input);
        break;
      case Op::kMaxPool:
      case Op::kGlobalAverage:
        break;
      case Op::kEmbedding:
      case Op::kLstm:
        ESPALIER_CHECK(false, "nets with gates read images");
        break;
    }
    if (resolve(index) != index) continue;
    if (step.target != index) {
      later.emplace(step.target, std::move(step));
    } else {
      steps_.push_back(std::move(step));
    }
  }
  place_values();
  place_unfolded();
}

// All values live in one block; a value's place is free again behind its last reader.
void GatedNet::place_values() {
  values_.resize(graph_.nodes.size() + 1);
  const auto describe = [&](int index, const Shape& shape) {
    Value& v = values_[static_cast<size_t>(index + 1)];
    v.channels = as_size(shape.channels);
    v.pixels = as_size(shape.pixels());
    if (index < 0) return;
    const Op op = node(index).op;
    v.vector = op == Op::kLinear || op == Op::kGlobalAverage || op == Op::kFlatten;
  };
  describe(kGraphInput, graph_.input);
  std::map<int, size_t> last_read;
  for (size_t i = 0; i < steps_.size(); ++i) {
    describe(steps_[i].target, node(steps_[i].target).out);
    for (const int from : {steps_[i].input, steps_[i].residual}) {
      if (from != kNone) last_read[resolve(from)] = i;
    }
  }
  last_read[resolve(static_cast<int>(graph_.nodes.size()) - 1)] = steps_.size();
  ArenaPlanner arena;
  std::map<int, size_t> places;
  const auto place = [&](int index) {
    const Value& v = values_[static_cast<size_t>(index + 1)];
    places[index] = arena.allocate((v.channels * v.plane() + 2 * kPlaneStep) * sizeof(float));
  };
  place(kGraphInput);
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].op != Op::kGate) place(steps_[i].target);
    for (const auto& [index, last] : last_read) {
      if (last == i) arena.release(places[index]);
    }
  }
  activations_.resize(arena.size() / sizeof(float));
  for (const auto& [index, at] : places)
    values_[static_cast<size_t>(index + 1)].data =
        activations_.data() + at / sizeof(float) + kPlaneStep;
}

// Convolutions of the same maps and kernels share a buffer: what their padding leaves at 0 is the
// same.
void GatedNet::place_unfolded() {
  const auto same = [](const SparseShape& a, const SparseShape& b) {
    return a.in_height == b.in_height && a.in_width == b.in_width && a.kernel == b.kernel &&
           a.stride == b.stride && a.padding == b.padding;
  };
  std::vector<std::pair<const SparsePlan*, size_t>> kinds;  // one of the kind, the largest size
  std::vector<size_t> kind_of(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].op != Op::kConv) continue;
    const SparsePlan& plan = *steps_[i].plan;
    auto found = std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) {
      return same(kind.first->shape(), plan.shape());
    });
    if (found == kinds.end()) found = kinds.insert(kinds.end(), {&plan, 0});
    found->second = std::max(found->second, plan.unfolded_size());
    kind_of[i] = static_cast<size_t>(found - kinds.begin());
  }
  for (const auto& kind : kinds) unfolded_.emplace_back(kind.second, 0.0f);
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].op == Op::kConv) steps_[i].unfolded = unfolded_[kind_of[i]].data();
  }
}

}  // namespace espalier::infer
