#include "espalier/nn/graph_net.h"

#include <algorithm>
#include <cstring>
#include <utility>

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

}  // namespace

bool computes_bf16() { return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core; }

std::string instructions() {
  using dnnl::cpu_isa;
  static constexpr std::pair<cpu_isa, std::string_view> kNames[] = {
      {cpu_isa::avx512_core_amx, "avx512-amx"},
      {cpu_isa::avx512_core_bf16, "avx512-bf16"},
      {cpu_isa::avx512_core_vnni, "avx512-vnni"},
      {cpu_isa::avx512_core, "avx512"},
      {cpu_isa::avx2_vnni, "avx2-vnni"},
      {cpu_isa::avx2, "avx2"},
      {cpu_isa::avx, "avx"},
      {cpu_isa::sse41, "sse4"}};
  const cpu_isa here = dnnl::get_effective_cpu_isa();
  for (const auto& [isa, name] : kNames)
    if (here == isa) return std::string(name);
  return concat("other-", static_cast<int>(here));  // of an oneDNN that knows more
}

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

NetPlan GraphNet::make_plan(int64_t batch, bool training) const {
  return training ? plan_training(graph_, type_, batch)
                  : plan_evaluation(graph_, type_, batch, slice_bytes_);
}

NetPlan& GraphNet::plan(int64_t batch, bool training) {
  const auto key = std::make_pair(batch, training);
  auto found = plans_.find(key);
  if (found == plans_.end()) {
    const MemoryScope scope(MemoryUse::kActivations);
    if (plans_.size() >= kMaxPlans) {
      plans_.erase(std::min_element(plans_.begin(), plans_.end(), [](const auto& a, const auto& b) {
        return a.second.used < b.second.used;
      }));
    }
    found = plans_.emplace(key, UsedPlan{make_plan(batch, training)}).first;
    const size_t bytes = found->second.plan.arena_bytes;
    if (arena_.size() < bytes) {
      arena_ = {};  // nothing in it outlives a pass
      arena_.resize(bytes);
    }
  }
  found->second.used = ++clock_;
  return found->second.plan;
}

// Puts the samples from `first` on in their place, as many as go through at a time.
void GraphNet::put_input(const NetPlan& plan, const Batch& batch, int64_t first,
                         const Frame& frame) {
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

Frame GraphNet::start(const NetPlan& plan, const Batch& batch) {
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
void GraphNet::infer(NetPlan& plan, const Batch& batch, std::span<const float> weights,
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

void GraphNet::run_forward(NetPlan& plan, const Frame& frame) {
  // The last backward pass has left them elsewhere.
  for (const NetPlan::Repeated& one : plan.repeated) {
    plan.layers[one.norm]->slots.y = one.first;
    if (one.reader < plan.layers.size()) plan.layers[one.reader]->slots.x = one.first;
  }
  for (size_t i = 0; i < plan.layers.size(); ++i) run(*plan.layers[i], i, Pass::kForward, frame);
}

// What the layers do not read elsewhere is brought to them.
void GraphNet::copy_weights(const NetPlan& plan, const float* from, float* weights) const {
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
  NetPlan& p = plan(batch.size, true);
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
    for (const NetPlan::Repeated& one : p.repeated) {
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
  NetPlan& p = plan(batch.size, true);
  Frame frame = start(p, batch);
  frame.weights = weights.data();
  run_forward(p, frame);
  return {frame.at<float>(p.logits), static_cast<size_t>(batch.size) * num_classes()};
}

uint64_t GraphNet::training_bytes(int64_t batch_size) const {
  const auto found = plans_.find({batch_size, true});
  const NetPlan fresh = found == plans_.end() ? make_plan(batch_size, true) : NetPlan{};
  const NetPlan& p = found == plans_.end() ? fresh : found->second.plan;
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
  NetPlan& p = plan(batch.size, false);
  infer(p, batch, weights, {}, true);
  logits_ = {logits_of(p), static_cast<size_t>(batch.size) * num_classes()};
  const LossSums sums = batch_loss(batch, logits_.data(), num_classes(), nullptr);
  const auto slices = static_cast<uint64_t>(p.slices());
  uint64_t macs = 0;
  for (size_t i = 0; i < p.layers.size(); ++i)
    macs += (i < p.sliced ? slices : 1) * p.layers[i]->forward_macs();
  return {sums.loss, sums.correct, macs};
}

void GraphNet::predict(const Batch& batch, std::span<const float> weights,
                       std::span<float> features, std::span<float> logits) {
  NetPlan& p = plan(batch.size, false);
  infer(p, batch, weights, features, !logits.empty());
  std::copy_n(logits_of(p), logits.size(), logits.begin());
}

void GraphNet::copy_features(const NetPlan& p, const Frame& frame, int64_t batch,
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
