#include "espalier/nn/graph_net.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "espalier/base/memory_use.h"
#include "espalier/nn/kernels.h"
#include "espalier/nn/loss.h"
#include "espalier/nn/onednn.h"

namespace espalier::nn {
namespace {

#if defined(ESPALIER_ONEDNN_ISA)
// Before oneDNN is used first, since it does not change its mind later.
const bool limited =
    dnnl::set_max_cpu_isa(dnnl::cpu_isa::ESPALIER_ONEDNN_ISA) == dnnl::status::success;
#else
constexpr bool limited = true;
#endif

constexpr size_t kMaxPlans = 64;
// Of an arena that need not save room: below, time is dearer.
constexpr size_t kRoomyBytes = size_t{1} << 28;
// From so many slices on weights are prepared once for all of them.
constexpr int64_t kPreparingSlices = 3;

bool is_norm(Op op) { return op == Op::kBatchNorm || op == Op::kGroupNorm; }

size_t means_bytes(const Shape& shape, int64_t batch) {
  return static_cast<size_t>(batch * shape.channels) * sizeof(float);
}

// The part of a core's second-level cache that a slice's activations may fill; the rest is for
// weights.
size_t half_of_cache() {
  const long level2 = ::sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or −1: not known
  return level2 > 0 ? static_cast<size_t>(level2) / 2 : size_t{1} << 19;
}

// Of at most `most` samples each, and of few that two slices share.
int64_t even_slices(int64_t batch, int64_t most) {
  int64_t best = most, twice = batch;
  for (int64_t size = most; 2 * size > most; --size) {
    const int64_t shared = (batch + size - 1) / size * size - batch;
    if (shared < twice) std::tie(best, twice) = std::tuple(size, shared);
  }
  return best;
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

bool computes_bf16() { return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core; }

GraphNet::GraphNet(Graph graph, Type type, size_t slice_bytes)
    : graph_(std::move(graph)), type_(type), slice_bytes_(slice_bytes) {
  ESPALIER_CHECK(limited, "oneDNN was used before its instructions were limited");
  ESPALIER_CHECK(!graph_.nodes.empty() &&
                     value_type(static_cast<int>(graph_.nodes.size()) - 1) == Type::kFloat,
                 "a graph ends in a vector");
  ESPALIER_CHECK(type == Type::kFloat || !graph_.tokens, "nets on tokens work in fp32");
  if (type_ == Type::kBf16 && !computes_bf16()) {
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

// Where the linear layers begin that end the graph one after the other; 0 when there is nothing
// else.
size_t GraphNet::vector_part() const {
  size_t begin = graph_.nodes.size();
  const auto follows = [&](const Node& node) {
    return node.op == Op::kLinear && node.residual < 0 && node.gate < 0 &&
           node.input == static_cast<int>(begin) - 2;
  };
  while (begin > 0 && follows(graph_.nodes[begin - 1])) --begin;
  return begin;
}

// Samples of an evaluated batch that go through the layers before the vector part at a time: as
// many as leave a layer's values, read and written, in cache; where nobody has said how many bytes
// that are, at least about as many as have as many bytes in all layers' outputs as the weights,
// which every slice reads again.
int64_t GraphNet::slice_of(int64_t batch) const {
  size_t most = 1, values = 1, weights = 0;
  for (size_t i = 0; i < vector_part(); ++i) {
    const Node& node = graph_.nodes[i];
    const size_t out = value_bytes(static_cast<int>(i), 1);
    most = std::max(most, value_bytes(node.input, 1) + out);
    values += out;
    if (node.op == Op::kConv) {
      weights +=
          static_cast<size_t>(graph_.layout->tensors()[static_cast<size_t>(node.weight)].size) *
          type_bytes(type_);
    }
  }
  const size_t bytes = slice_bytes_ > 0 ? slice_bytes_ : half_of_cache(),
               least = slice_bytes_ > 0 ? 1 : std::max<size_t>(1, weights / values);
  const auto fitting = static_cast<int64_t>(std::max(least, bytes / most));
  return fitting >= batch ? batch : even_slices(batch, fitting);
}

GraphNet::Plan GraphNet::make_plan(int64_t whole, bool training, bool repeats) const {
  const size_t count = graph_.nodes.size();
  std::vector<size_t> last_read(count, count);  // the logits are read after all layers
  std::vector<int> readers(count, 0), gates(count, 0);
  size_t input_read = 0;
  std::vector<bool> residual_alone(count, true);  // nobody reads it otherwise
  for (size_t i = 0; i < count; ++i) {
    const Node& node = graph_.nodes[i];
    for (const int from : {node.input, node.gate}) {
      if (from >= 0) residual_alone[static_cast<size_t>(from)] = false;
    }
    if (node.residual >= 0 && node.gate >= 0)
      residual_alone[static_cast<size_t>(node.residual)] = false;
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
  plan.batch = plan.slice = whole;
  plan.sliced = vector_part();
  if (plan.sliced > 0 && !training) plan.slice = slice_of(whole);
  if (plan.slice == whole) plan.sliced = count;
  std::vector<size_t> values(count), means(count, kNoSlot);
  // What the slices leave behind must outlast all of them.
  const size_t joint = plan.slice < whole ? plan.sliced - 1 : count;
  if (joint < count) {
    plan.joint = values[joint] = arena.allocate(value_bytes(static_cast<int>(joint), whole));
    plan.joint_bytes = value_bytes(static_cast<int>(joint), 1);
  }
  plan.input = arena.allocate(value_bytes(kGraphInput, plan.slice));
  size_t scratch_bytes = 0;
  for (size_t i = 0; i < count; ++i) {
    const Node& node = graph_.nodes[i];
    const int index = static_cast<int>(i);
    const int64_t batch = i < plan.sliced ? plan.slice : whole;
    LayerContext context{
        node, *graph_.layout, batch, training, value_type(node.input), value_type(index), type_};
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
    if (i != joint) values[i] = arena.allocate(value_bytes(index, batch));
    layer->slots.y = values[i];
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
    if (training) {
      // The backward pass reads everything, but for sums' terms that were only normalized.
      for (size_t j = 0; j < i; ++j) {
        const Node& read = graph_.nodes[j];
        if (last_read[j] != i || !is_norm(read.op) || read.gate >= 0 || gates[j] > 0) continue;
        if (residual_alone[j] && !read.relu) {
          arena.release(values[j]);
          plan.repeated.push_back({j, count, values[j]});  // for nobody
        } else if (repeats && readers[j] == 1 && node.op == Op::kConv && read.residual < 0) {
          arena.release(values[j]);
          plan.repeated.push_back({j, i, values[j]});
        }
      }
      continue;
    }
    if (i == input_read) arena.release(plan.input);
    for (size_t j = 0; j < i; ++j) {
      if (last_read[j] == i) arena.release(values[j]);
    }
  }
  plan.logits = values.back();
  if (training) place_gradients(whole, plan, arena);
  const size_t scratch = arena.append(scratch_bytes);
  for (auto& layer : plan.layers) layer->slots.scratch = scratch;
  // Behind all that makes room for others within a slice.
  const bool prepares =
      plan.slice < whole && (whole + plan.slice - 1) / plan.slice >= kPreparingSlices;
  for (size_t i = 0; i < plan.sliced && prepares; ++i) {
    if (const size_t bytes = plan.layers[i]->prepared_bytes(); bytes > 0)
      plan.layers[i]->slots.prepared = arena.append(bytes);
  }
  plan.arena_bytes = arena.size();
  if (training && !repeats && plan.arena_bytes > kRoomyBytes) return make_plan(whole, true, true);
  return plan;
}

void GraphNet::place_gradients(int64_t batch, Plan& plan, ArenaPlanner& arena) const {
  const std::vector<bool> trained = needed_gradients(graph_);
  std::vector<std::vector<size_t>> parts(
      graph_.nodes.size());  // the gradient of each output, in up to two parts
  std::vector<size_t> even(graph_.nodes.size(), kNoSlot);  // and that of a gate
  plan.dlogits = arena.allocate(value_bytes(static_cast<int>(graph_.nodes.size()) - 1, batch));
  parts.back().push_back(plan.dlogits);
  // What the forward pass has left for layer i, the logits apart, makes room once nothing reads it:
  // its readers stand behind it, but the convolution in front of a max-pooling may read that too.
  std::vector<size_t> spent, read_in_front;
  for (size_t i = graph_.nodes.size(); i-- > 0;) {
    if (parts[i].empty()) continue;
    const Node& node = graph_.nodes[i];
    Layer& layer = *plan.layers[i];
    for (const size_t slot : spent) arena.release(slot);
    spent.clear();
    size_t y = layer.slots.y;
    for (Plan::Repeated& one : plan.repeated) {
      if (one.reader == i)
        one.again = arena.allocate(value_bytes(static_cast<int>(one.norm), batch));
      if (one.norm == i) y = one.again;
    }
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

    spent.insert(spent.end(), read_in_front.begin(), read_in_front.end());
    read_in_front.clear();
    if (i + 1 == graph_.nodes.size()) continue;
    const bool in_front = i > 0 && plan.layers[i - 1]->slots.pooled == layer.slots.y;
    auto& now_or_later = in_front ? read_in_front : spent;
    if (y != kNoSlot) now_or_later.push_back(y);
    if (layer.slots.saved != kNoSlot) now_or_later.push_back(layer.slots.saved);
  }
}

GraphNet::Plan& GraphNet::plan(int64_t batch, bool training) {
  const auto key = std::make_pair(batch, training);
  auto found = plans_.find(key);
  if (found == plans_.end()) {
    const MemoryScope scope(MemoryUse::kActivations);
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

// Puts the samples from `first` on in their place, as many as go through at a time.
void GraphNet::put_input(const Plan& plan, const Batch& batch, int64_t first, const Frame& frame) {
  const auto size = static_cast<size_t>(graph_.input.size());
  const auto at = static_cast<size_t>(first) * size, count = static_cast<size_t>(plan.slice) * size;
  if (graph_.tokens) {
    std::memcpy(frame.at<int64_t>(plan.input), batch.tokens.data() + at, count * sizeof(int64_t));
  } else if (value_type(kGraphInput) == Type::kFloat) {
    std::memcpy(frame.at<float>(plan.input), batch.values.data() + at, count * sizeof(float));
  } else {
    convert(batch.values.data() + at, frame.at<Bf16>(plan.input), count);
  }
}

Frame GraphNet::start(const Plan& plan, const Batch& batch) {
  Frame frame;
  frame.arena = arena_.data();
  put_input(plan, batch, 0, frame);
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

// The forward pass without training: the layers before the vector part slice by slice, the others
// at once. The last slice begins early enough to be as large as the others.
void GraphNet::infer(Plan& plan, const Batch& batch, std::span<const float> weights,
                     std::span<float> features, bool logits) {
  Frame frame;
  frame.arena = arena_.data();
  frame.weights = const_cast<float*>(weights.data());  // evaluation only reads
  const auto forward = [&](size_t begin, size_t end, int64_t first, int64_t count) {
    for (size_t i = begin; i < end; ++i) {
      plan.layers[i]->forward(frame);
      if (static_cast<int>(i) != graph_.features || features.empty()) continue;
      // At once: the arena gives the place to others when its last reader is done.
      const size_t map = features.size() / static_cast<size_t>(plan.batch);
      copy_features(
          plan, frame, count,
          features.subspan(static_cast<size_t>(first) * map, static_cast<size_t>(count) * map));
      if (!logits) return;
    }
  };
  for (size_t i = 0; i < plan.sliced; ++i) {
    if (plan.layers[i]->slots.prepared != kNoSlot) plan.layers[i]->prepare(frame);
  }
  for (int64_t done = 0; done < plan.batch; done += plan.slice) {
    const int64_t first = std::min(done, plan.batch - plan.slice);
    put_input(plan, batch, first, frame);
    if (plan.joint != kNoSlot)
      plan.layers[plan.sliced - 1]->slots.y =
          plan.joint + static_cast<size_t>(first) * plan.joint_bytes;
    forward(0, plan.sliced, first, plan.slice);
  }
  if (logits || (!features.empty() && graph_.features >= static_cast<int>(plan.sliced)))
    forward(plan.sliced, plan.layers.size(), 0, plan.batch);
}

void GraphNet::run_forward(Plan& plan, const Frame& frame) {
  // The last backward pass has left them elsewhere.
  for (const Plan::Repeated& one : plan.repeated) {
    plan.layers[one.norm]->slots.y = one.first;
    if (one.reader < plan.layers.size()) plan.layers[one.reader]->slots.x = one.first;
  }
  for (size_t i = 0; i < plan.layers.size(); ++i) run(*plan.layers[i], i, Pass::kForward, frame);
}

// What the layers do not read elsewhere is brought to them.
void GraphNet::copy_weights(const Plan& plan, const float* from, float* weights) const {
  std::vector<bool> elsewhere(graph_.layout->tensors().size(), false);
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    if (plan.layers[i]->reads_elsewhere())
      elsewhere[static_cast<size_t>(graph_.nodes[i].weight)] = true;
  }
  for (size_t t = 0; t < elsewhere.size(); ++t) {
    const ParameterInfo& tensor = graph_.layout->tensors()[t];
    if (!elsewhere[t]) std::copy_n(from + tensor.offset, tensor.size, weights + tensor.offset);
  }
}

BatchSums GraphNet::train(const Batch& batch, std::span<float> weights, std::span<float> gradients,
                          const SgdUpdate* update) {
  Plan& p = plan(batch.size, true);
  Frame frame = start(p, batch);
  frame.weights = weights.data();
  frame.gradients = gradients.data();
  frame.update = update;
  if (update != nullptr && update->from != nullptr) copy_weights(p, update->from, weights.data());
  frame.observer = observer_;
  run_forward(p, frame);
  LossSums sums =
      batch_loss(batch, frame.at<float>(p.logits), num_classes(), frame.at<float>(p.dlogits));
  for (const auto& layer : p.layers) sums.loss += layer->penalty();
  uint64_t macs = 0;
  for (size_t i = p.layers.size(); i-- > 0;) {
    Layer& layer = *p.layers[i];
    for (const Plan::Repeated& one : p.repeated) {
      if (one.reader != i || one.again == kNoSlot) continue;
      p.layers[one.norm]->slots.y = layer.slots.x = one.again;
      p.layers[one.norm]->repeat(frame);
    }
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
  run_forward(p, frame);
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
  infer(p, batch, weights, {}, true);
  logits_ = {logits_of(p), static_cast<size_t>(batch.size) * num_classes()};
  const LossSums sums = batch_loss(batch, logits_.data(), num_classes(), nullptr);
  const auto slices = static_cast<uint64_t>((p.batch + p.slice - 1) / p.slice);
  uint64_t macs = 0;
  for (size_t i = 0; i < p.layers.size(); ++i)
    macs += (i < p.sliced ? slices : 1) * p.layers[i]->forward_macs();
  return {sums.loss, sums.correct, macs};
}

void GraphNet::predict(const Batch& batch, std::span<const float> weights,
                       std::span<float> features, std::span<float> logits) {
  Plan& p = plan(batch.size, false);
  infer(p, batch, weights, features, !logits.empty());
  std::copy_n(logits_of(p), logits.size(), logits.begin());
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
