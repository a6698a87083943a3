#include "espalier/nn/graph_net.h"

#include <algorithm>
#include <cstring>

#include "espalier/nn/kernels.h"
#include "espalier/nn/loss.h"
#include "espalier/nn/onednn.h"

namespace espalier::nn {
namespace {

constexpr size_t kMaxPlans = 64;

bool is_norm(Op op) { return op == Op::kBatchNorm || op == Op::kGroupNorm; }

size_t means_bytes(const Shape& shape, int64_t batch) {
  return static_cast<size_t>(batch * shape.channels) * sizeof(float);
}

}  // namespace

std::unique_ptr<Layer> make_layer(const LayerContext& context) {
  switch (context.node.op) {
    case Op::kConv:
      return make_conv_layer(context);
    case Op::kLinear:
      return make_linear_layer(context);
    case Op::kMaxPool:
      return make_pool_layer(context);
    case Op::kBatchNorm:
    case Op::kGroupNorm:
      return context.gate_reads || context.node.gate != kNone ? make_gated_norm_layer(context)
                                                              : make_norm_layer(context);
    case Op::kGlobalAverage:
    case Op::kFlatten:
      return make_vector_layer(context);
    case Op::kGate:
      return make_gate_layer(context);
    case Op::kScale:
      return make_scale_layer(context);
    case Op::kEmbedding:
      return make_embedding_layer(context);
    case Op::kLstm:
      return make_lstm_layer(context);
  }
  return nullptr;
}

GraphNet::GraphNet(Graph graph, Type type) : graph_(std::move(graph)), type_(type) {
  ESPALIER_CHECK(!graph_.nodes.empty() &&
                     value_type(static_cast<int>(graph_.nodes.size()) - 1) == Type::kFloat,
                 "a graph ends in a vector");
  ESPALIER_CHECK(type == Type::kFloat || !graph_.tokens, "nets on tokens work in fp32");
  if (type_ == Type::kBf16 && dnnl::get_effective_cpu_isa() < dnnl::cpu_isa::avx512_core) {
    fail("train/precision",
         "this processor has no AVX-512, which bf16 needs; set train.precision = \"fp32\"");
  }
}

Type GraphNet::value_type(int node) const {
  if (type_ == Type::kFloat) return Type::kFloat;
  if (node == kGraphInput) {
    const auto reads = [](const Node& n) { return n.input == kGraphInput && n.op == Op::kConv; };
    return std::any_of(graph_.nodes.begin(), graph_.nodes.end(), reads) ? Type::kBf16
                                                                        : Type::kFloat;
  }
  const Op op = graph_.nodes[static_cast<size_t>(node)].op;
  return op == Op::kConv || op == Op::kMaxPool || op == Op::kScale || is_norm(op) ? Type::kBf16
                                                                                  : Type::kFloat;
}

size_t GraphNet::value_bytes(int node, int64_t batch) const {
  const Shape& shape =
      node == kGraphInput ? graph_.input : graph_.nodes[static_cast<size_t>(node)].out;
  const bool tokens = node == kGraphInput && graph_.tokens;
  return static_cast<size_t>(batch * shape.size()) *
         (tokens ? sizeof(int64_t) : type_bytes(value_type(node)));
}

GraphNet::Plan GraphNet::make_plan(int64_t batch, bool training) const {
  const size_t count = graph_.nodes.size();
  std::vector<size_t> last_read(count, count);  // the logits are read after all layers
  std::vector<int> readers(count, 0), gates(count, 0);
  size_t input_read = 0;
  for (size_t i = 0; i < count; ++i) {
    const Node& node = graph_.nodes[i];
    if (node.op == Op::kGate && node.input >= 0) ++gates[static_cast<size_t>(node.input)];
    for (const int from : {node.input, node.residual, node.gate}) {
      if (from >= 0) {
        last_read[static_cast<size_t>(from)] = i;
        ++readers[static_cast<size_t>(from)];
      } else if (from == kGraphInput) {
        input_read = i;
      }
    }
  }

  Plan plan;
  ArenaPlanner arena;
  plan.input = arena.allocate(value_bytes(kGraphInput, batch));
  std::vector<size_t> values(count), means(count, kNoSlot);
  size_t scratch_bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    const Node& node = graph_.nodes[i];
    const int index = static_cast<int>(i);
    LayerContext context{node,     *graph_.layout,         batch,
                         training, value_type(node.input), value_type(index)};
    const auto pair = [&](size_t conv) {  // a convolution that only the max-pooling behind it reads
      if (conv + 1 >= count || graph_.nodes[conv].op != Op::kConv) return false;
      const Node& next = graph_.nodes[conv + 1];
      return next.op == Op::kMaxPool && next.input == static_cast<int>(conv) && readers[conv] == 1;
    };
    if (pair(i)) context.pool = &graph_.nodes[i + 1];
    if (i > 0 && pair(i - 1)) context.front = &graph_.nodes[i - 1];
    context.gate_reads = gates[i] > 0;
    ESPALIER_CHECK(gates[i] < 2, "two gates read node ", i);
    auto layer = make_layer(context);
    layer->slots.x =
        node.input == kGraphInput ? plan.input : values[static_cast<size_t>(node.input)];
    if (node.residual >= 0) layer->slots.residual = values[static_cast<size_t>(node.residual)];
    if (node.gate >= 0) layer->slots.gate = values[static_cast<size_t>(node.gate)];
    values[i] = layer->slots.y = arena.allocate(value_bytes(index, batch));
    if (context.gate_reads && layer->gives_means())
      means[i] = layer->slots.means = arena.allocate(means_bytes(node.out, batch));
    if (node.op == Op::kGate) {
      const size_t given = node.input < 0 ? kNoSlot : means[static_cast<size_t>(node.input)];
      layer->slots.means = given != kNoSlot ? given : arena.allocate(means_bytes(node.in, batch));
      if (given != kNoSlot) layer->slots.x = kNoSlot;
      if (!training) arena.release(layer->slots.means);
    }
    if (layer->saved_bytes() > 0) layer->slots.saved = arena.allocate(layer->saved_bytes());
    if (context.front != nullptr) {
      plan.layers[i - 1]->slots.pooled = layer->slots.y;
      plan.layers[i - 1]->slots.argmax = layer->slots.saved;
    }
    scratch_bytes = std::max(scratch_bytes, layer->scratch_bytes());
    plan.layers.push_back(std::move(layer));
    if (training) continue;  // backward reads everything
    if (i == input_read) arena.release(plan.input);
    for (size_t j = 0; j < i; ++j) {
      if (last_read[j] == i) arena.release(values[j]);
    }
  }
  plan.logits = values.back();
  if (training) place_gradients(batch, plan, arena);
  const size_t scratch = arena.append(scratch_bytes);
  for (auto& layer : plan.layers) layer->slots.scratch = scratch;
  plan.arena_bytes = arena.size();
  return plan;
}

void GraphNet::place_gradients(int64_t batch, Plan& plan, ArenaPlanner& arena) const {
  const std::vector<bool> trained = needed_gradients(graph_);
  std::vector<std::vector<size_t>> parts(
      graph_.nodes.size());  // the gradient of each output, in up to two parts
  std::vector<size_t> even(graph_.nodes.size(), kNoSlot);  // and that of a gate
  plan.dlogits = arena.allocate(value_bytes(static_cast<int>(graph_.nodes.size()) - 1, batch));
  parts.back().push_back(plan.dlogits);
  for (size_t i = graph_.nodes.size(); i-- > 0;) {
    if (parts[i].empty()) continue;
    const Node& node = graph_.nodes[i];
    Layer& layer = *plan.layers[i];
    ESPALIER_CHECK(parts[i].size() == 1 || (parts[i].size() == 2 && is_norm(node.op)),
                   "only a normalization's output may have two readers");
    layer.slots.dy = parts[i][0];
    if (parts[i].size() == 2) layer.slots.more_dy = parts[i][1];
    layer.slots.even = even[i];
    ESPALIER_CHECK(
        even[i] == kNoSlot || is_norm(node.op) || node.op == Op::kMaxPool || node.op == Op::kScale,
        "a gate reads node ", i);
    if (node.gate != kNone) {
      layer.slots.dgate = arena.allocate(value_bytes(node.gate, batch));
      parts[static_cast<size_t>(node.gate)].push_back(layer.slots.dgate);
    }
    const bool shares = node.residual >= 0;  // dy, masked, is also the residual's gradient
    const bool wanted = node.input >= 0 && trained[static_cast<size_t>(node.input)];
    if (wanted && node.op == Op::kGate) {
      even[static_cast<size_t>(node.input)] = layer.slots.dx =
          arena.allocate(means_bytes(node.in, batch));
    } else if (wanted) {
      layer.slots.dx = layer.backward_in_place() && !shares
                           ? layer.slots.dy
                           : arena.allocate(value_bytes(node.input, batch));
      parts[static_cast<size_t>(node.input)].push_back(layer.slots.dx);
    }
    if (shares) parts[static_cast<size_t>(node.residual)].push_back(layer.slots.dy);
    if (!shares && layer.slots.dx != layer.slots.dy) arena.release(layer.slots.dy);
    if (parts[i].size() == 2) arena.release(parts[i][1]);
    if (even[i] != kNoSlot) arena.release(even[i]);
  }
}

GraphNet::Plan& GraphNet::plan(int64_t batch, bool training) {
  const auto key = std::make_pair(batch, training);
  auto found = plans_.find(key);
  if (found == plans_.end()) {
    if (plans_.size() >= kMaxPlans) {
      plans_.erase(std::min_element(plans_.begin(), plans_.end(), [](const auto& a, const auto& b) {
        return a.second.used < b.second.used;
      }));
    }
    found = plans_.emplace(key, make_plan(batch, training)).first;
    if (arena_.size() < found->second.arena_bytes) {
      arena_ = {};  // nothing in it outlives a pass
      arena_.resize(found->second.arena_bytes);
    }
  }
  found->second.used = ++clock_;
  return found->second;
}

Frame GraphNet::start(const Plan& plan, const Batch& batch) {
  Frame frame;
  frame.arena = arena_.data();
  if (graph_.tokens) {
    std::memcpy(frame.at<int64_t>(plan.input), batch.tokens.data(), batch.tokens.size_bytes());
  } else if (value_type(kGraphInput) == Type::kFloat) {
    std::memcpy(frame.at<float>(plan.input), batch.values.data(), batch.values.size_bytes());
  } else {
    convert(batch.values.data(), frame.at<Bf16>(plan.input), batch.values.size());
  }
  return frame;
}

namespace {

// A layer's pass, as the frame's observer sees it.
void run(Layer& layer, size_t index, Pass pass, const Frame& frame) {
  if (frame.observer != nullptr) frame.observer->begin(index, pass);
  if (pass == Pass::kForward) {
    layer.forward(frame);
  } else {
    layer.backward(frame);
  }
  if (frame.observer != nullptr) frame.observer->end(index, layer);
}

}  // namespace

BatchSums GraphNet::train(const Batch& batch, std::span<float> weights, std::span<float> gradients,
                          const SgdUpdate* update) {
  Plan& p = plan(batch.size, true);
  Frame frame = start(p, batch);
  frame.weights = weights.data();
  frame.gradients = gradients.data();
  frame.update = update;
  frame.observer = observer_;
  for (size_t i = 0; i < p.layers.size(); ++i) run(*p.layers[i], i, Pass::kForward, frame);
  LossSums sums =
      batch_loss(batch, frame.at<float>(p.logits), num_classes(), frame.at<float>(p.dlogits));
  for (const auto& layer : p.layers) sums.loss += layer->penalty();
  uint64_t macs = 0;
  for (size_t i = p.layers.size(); i-- > 0;) {
    Layer& layer = *p.layers[i];
    macs += layer.forward_macs();
    if (layer.slots.dy == kNoSlot) continue;
    run(layer, i, Pass::kBackward, frame);
    macs += layer.backward_macs();
  }
  return {sums.loss, sums.correct, macs};
}

std::span<const float> GraphNet::forward_training(const Batch& batch, std::span<float> weights) {
  Plan& p = plan(batch.size, true);
  Frame frame = start(p, batch);
  frame.weights = weights.data();
  for (auto& layer : p.layers) layer->forward(frame);
  return {frame.at<float>(p.logits), static_cast<size_t>(batch.size) * num_classes()};
}

uint64_t GraphNet::training_bytes(int64_t batch_size) const {
  const auto found = plans_.find({batch_size, true});
  const Plan fresh = found == plans_.end() ? make_plan(batch_size, true) : Plan{};
  const Plan& p = found == plans_.end() ? fresh : found->second;
  uint64_t bytes = p.arena_bytes;
  for (const auto& layer : p.layers) bytes += layer->owned_bytes();
  return bytes;
}

std::vector<size_t> GraphNet::fused_tensors() const {
  std::vector<size_t> tensors;
  for (const Node& node : graph_.nodes) {
    if (node.op == Op::kLinear || node.op == Op::kLstm)
      tensors.push_back(static_cast<size_t>(node.weight));
    if (node.op == Op::kLstm) tensors.push_back(static_cast<size_t>(node.recurrent));
  }
  return tensors;
}

BatchSums GraphNet::evaluate(const Batch& batch, std::span<const float> weights) {
  Plan& p = plan(batch.size, false);
  Frame frame = start(p, batch);
  frame.weights = const_cast<float*>(weights.data());  // evaluation only reads
  for (auto& layer : p.layers) layer->forward(frame);
  logits_ = {frame.at<float>(p.logits), static_cast<size_t>(batch.size) * num_classes()};
  const LossSums sums = batch_loss(batch, logits_.data(), num_classes(), nullptr);
  uint64_t macs = 0;
  for (const auto& layer : p.layers) macs += layer->forward_macs();
  return {sums.loss, sums.correct, macs};
}

void GraphNet::predict(const Batch& batch, std::span<const float> weights,
                       std::span<float> features, std::span<float> logits) {
  Plan& p = plan(batch.size, false);
  Frame frame = start(p, batch);
  frame.weights = const_cast<float*>(weights.data());  // evaluation only reads
  for (size_t i = 0; i < p.layers.size(); ++i) {
    p.layers[i]->forward(frame);
    if (static_cast<int>(i) != graph_.features || features.empty()) continue;
    // At once: the arena gives the place to others when its last reader is done.
    copy_features(p, frame, batch.size, features);
    if (logits.empty()) return;
  }
  std::copy_n(frame.at<float>(p.logits), logits.size(), logits.begin());
}

void GraphNet::copy_features(const Plan& p, const Frame& frame, int64_t batch,
                             std::span<float> out) const {
  const auto node = static_cast<size_t>(graph_.features);
  const Shape& shape = graph_.nodes[node].out;
  const auto size = static_cast<size_t>(batch), pixels = static_cast<size_t>(shape.pixels()),
             channels = static_cast<size_t>(shape.channels);
  const size_t slot = p.layers[node]->slots.y;
  if (value_type(graph_.features) == Type::kFloat) {
    flatten(frame.at<float>(slot), size, pixels, channels, out.data());
  } else {
    flatten(frame.at<Bf16>(slot), size, pixels, channels, out.data());
  }
}

std::vector<int64_t> GraphNet::feature_shape() const {
  if (graph_.features == kNone) return {};
  const Shape& shape = graph_.nodes[static_cast<size_t>(graph_.features)].out;
  return {shape.channels, shape.height, shape.width};
}

std::vector<size_t> GraphNet::extractor_tensors() const {
  return espalier::nn::extractor_tensors(graph_);
}

}  // namespace espalier::nn
