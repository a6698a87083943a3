#include "espalier/nn/net_plan.h"

#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "espalier/nn/arena.h"

namespace espalier::nn {
namespace {

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

// Where the linear layers begin that end the graph one after the other; 0 when there is nothing
// else.
size_t vector_part(const Graph& graph) {
  size_t begin = graph.nodes.size();
  const auto follows = [&](const Node& node) {
    return node.op == Op::kLinear && node.residual < 0 && node.gate < 0 &&
           node.input == static_cast<int>(begin) - 2;
  };
  while (begin > 0 && follows(graph.nodes[begin - 1])) --begin;
  return begin;
}

// Samples of an evaluated batch that go through the layers before the vector part at a time: as
// many as leave a layer's values, read and written, in cache; where nobody has said how many bytes
// that are, at least about as many as have as many bytes in all layers' outputs as the weights,
// which every slice reads again.
int64_t slice_of(const Graph& graph, Type net, int64_t batch, size_t slice_bytes) {
  size_t most = 1, values = 1, weights = 0;
  for (size_t i = 0; i < vector_part(graph); ++i) {
    const Node& node = graph.nodes[i];
    const size_t out = value_bytes(graph, net, static_cast<int>(i), 1);
    most = std::max(most, value_bytes(graph, net, node.input, 1) + out);
    values += out;
    if (node.op == Op::kConv) {
      weights +=
          static_cast<size_t>(graph.layout->tensors()[static_cast<size_t>(node.weight)].size) *
          type_bytes(net);
    }
  }
  const size_t bytes = slice_bytes > 0 ? slice_bytes : half_of_cache(),
               least = slice_bytes > 0 ? 1 : std::max<size_t>(1, weights / values);
  const auto fitting = static_cast<int64_t>(std::max(least, bytes / most));
  return fitting >= batch ? batch : even_slices(batch, fitting);
}

// Who reads a node's output.
struct Readers {
  size_t last;  // the end of the graph when nobody does
  int count = 0, gates = 0;
  // No reader reads it as its input or its gate, nor scales what it adds.
  bool residual_alone = true;
};

// Makes one plan.
class Planner {
 public:
  Planner(const Graph& graph, Type net, int64_t batch)
      : graph_(graph),
        net_(net),
        count_(graph.nodes.size()),
        values_(count_),
        means_(count_, kNoSlot) {
    plan_.batch = plan_.slice = batch;
    plan_.sliced = count_;
    find_readers();
  }

  NetPlan training(bool repeats) {
    plan_.input = arena_.allocate(bytes(kGraphInput, plan_.batch));
    for (size_t i = 0; i < count_; ++i) {
      add_layer(i, true);
      release_normalized(i, repeats);
    }
    plan_.logits = values_.back();
    place_gradients();
    place_scratch();
    return finish();
  }

  NetPlan evaluation(size_t slice_bytes) {
    const size_t vectors = vector_part(graph_);
    if (vectors > 0) plan_.slice = slice_of(graph_, net_, plan_.batch, slice_bytes);
    if (plan_.slice < plan_.batch) {
      // What the slices leave behind must outlast all of them.
      plan_.sliced = vectors;
      const auto joint = static_cast<int>(vectors) - 1;
      plan_.joint = values_[vectors - 1] = arena_.allocate(bytes(joint, plan_.batch));
      plan_.joint_bytes = bytes(joint, 1);
    }
    plan_.input = arena_.allocate(bytes(kGraphInput, plan_.slice));
    for (size_t i = 0; i < count_; ++i) {
      add_layer(i, false);
      if (i == input_read_) arena_.release(plan_.input);
      for (size_t j = 0; j < i; ++j) {
        if (readers_[j].last == i) arena_.release(values_[j]);
      }
    }
    plan_.logits = values_.back();
    place_scratch();
    // Behind all that makes room for others within a slice.
    const bool prepares = plan_.slice < plan_.batch && plan_.slices() >= kPreparingSlices;
    for (size_t i = 0; i < plan_.sliced && prepares; ++i) {
      Layer& layer = *plan_.layers[i];
      if (layer.prepared_bytes() > 0) layer.slots.prepared = arena_.append(layer.prepared_bytes());
    }
    return finish();
  }

 private:
  size_t bytes(int node, int64_t batch) const { return value_bytes(graph_, net_, node, batch); }

  void find_readers() {
    readers_.assign(count_, {.last = count_});  // the logits are read after all layers
    for (size_t i = 0; i < count_; ++i) {
      const Node& node = graph_.nodes[i];
      for (const int from : {node.input, node.gate}) {
        if (from >= 0) readers_[static_cast<size_t>(from)].residual_alone = false;
      }
      if (node.residual >= 0 && node.gate >= 0)
        readers_[static_cast<size_t>(node.residual)].residual_alone = false;
      if (node.op == Op::kGate && node.input >= 0)
        ++readers_[static_cast<size_t>(node.input)].gates;
      for (const int from : {node.input, node.residual, node.gate}) {
        if (from >= 0) {
          readers_[static_cast<size_t>(from)].last = i;
          ++readers_[static_cast<size_t>(from)].count;
        } else if (from == kGraphInput) {
          input_read_ = i;
        }
      }
    }
  }

  // A convolution that only the max-pooling behind it reads.
  bool pooled(size_t conv) const {
    if (conv + 1 >= count_ || graph_.nodes[conv].op != Op::kConv) return false;
    const Node& next = graph_.nodes[conv + 1];
    return next.op == Op::kMaxPool && next.input == static_cast<int>(conv) &&
           readers_[conv].count == 1;
  }

  // Layer i with the places of what its forward pass reads and writes.
  void add_layer(size_t i, bool training) {
    const Node& node = graph_.nodes[i];
    const int index = static_cast<int>(i);
    const int64_t batch = i < plan_.sliced ? plan_.slice : plan_.batch;
    LayerContext context{node,
                         *graph_.layout,
                         batch,
                         training,
                         value_type(graph_, net_, node.input),
                         value_type(graph_, net_, index),
                         net_};
    if (pooled(i)) context.pool = &graph_.nodes[i + 1];
    if (i > 0 && pooled(i - 1)) context.front = &graph_.nodes[i - 1];
    context.gate_reads = readers_[i].gates > 0;
    ESPALIER_CHECK(readers_[i].gates < 2, "two gates read node ", i);
    auto layer = make_layer(context);
    Slots& slots = layer->slots;
    slots.x = node.input == kGraphInput ? plan_.input : values_[static_cast<size_t>(node.input)];
    if (node.residual >= 0) slots.residual = values_[static_cast<size_t>(node.residual)];
    if (node.gate >= 0) slots.gate = values_[static_cast<size_t>(node.gate)];
    const bool joint = plan_.joint != kNoSlot && i + 1 == plan_.sliced;
    if (!joint) values_[i] = arena_.allocate(bytes(index, batch));
    slots.y = values_[i];
    if (context.gate_reads && layer->gives_means())
      means_[i] = slots.means = arena_.allocate(means_bytes(node.out, batch));
    if (node.op == Op::kGate) {
      const size_t given = node.input < 0 ? kNoSlot : means_[static_cast<size_t>(node.input)];
      slots.means = given != kNoSlot ? given : arena_.allocate(means_bytes(node.in, batch));
      if (given != kNoSlot) slots.x = kNoSlot;
      if (!training) arena_.release(slots.means);
    }
    if (layer->saved_bytes() > 0) slots.saved = arena_.allocate(layer->saved_bytes());
    if (context.front != nullptr) {
      plan_.layers[i - 1]->slots.pooled = slots.y;
      plan_.layers[i - 1]->slots.argmax = slots.saved;
    }
    plan_.layers.push_back(std::move(layer));
  }

  // The backward pass reads everything, but for sums' terms that were only normalized; and where
  // it `repeats` normalizations, what a convolution alone reads is made again.
  void release_normalized(size_t reader, bool repeats) {
    const Node& node = graph_.nodes[reader];
    for (size_t j = 0; j < reader; ++j) {
      const Node& read = graph_.nodes[j];
      const Readers& by = readers_[j];
      if (by.last != reader || !is_norm(read.op) || read.gate >= 0 || by.gates > 0) continue;
      if (by.residual_alone && !read.relu) {
        arena_.release(values_[j]);
        plan_.repeated.push_back({j, count_, values_[j]});  // for nobody
      } else if (repeats && by.count == 1 && node.op == Op::kConv && read.residual < 0) {
        arena_.release(values_[j]);
        plan_.repeated.push_back({j, reader, values_[j]});
      }
    }
  }

  // The gradients' places, from the last layer to the first.
  void place_gradients() {
    const std::vector<bool> trained = needed_gradients(graph_);
    // The gradient of each output, in up to two parts, and that of a gate.
    std::vector<std::vector<size_t>> parts(count_);
    std::vector<size_t> even(count_, kNoSlot);
    plan_.dlogits = arena_.allocate(bytes(static_cast<int>(count_) - 1, plan_.batch));
    parts.back().push_back(plan_.dlogits);
    // What the forward pass has left for layer i, the logits apart, makes room once nothing reads
    // it: its readers stand behind it, but the convolution in front of a max-pooling may read that
    // too.
    std::vector<size_t> spent, read_in_front;
    for (size_t i = count_; i-- > 0;) {
      if (parts[i].empty()) continue;
      Layer& layer = *plan_.layers[i];
      for (const size_t slot : spent) arena_.release(slot);
      spent.clear();
      size_t y = layer.slots.y;
      for (NetPlan::Repeated& one : plan_.repeated) {
        if (one.reader == i)
          one.again = arena_.allocate(bytes(static_cast<int>(one.norm), plan_.batch));
        if (one.norm == i) y = one.again;
      }
      place_gradient(i, trained, parts, even);
      spent.insert(spent.end(), read_in_front.begin(), read_in_front.end());
      read_in_front.clear();
      if (i + 1 == count_) continue;
      const bool in_front = i > 0 && plan_.layers[i - 1]->slots.pooled == layer.slots.y;
      auto& now_or_later = in_front ? read_in_front : spent;
      if (y != kNoSlot) now_or_later.push_back(y);
      if (layer.slots.saved != kNoSlot) now_or_later.push_back(layer.slots.saved);
    }
  }

  void place_gradient(size_t i, const std::vector<bool>& trained,
                      std::vector<std::vector<size_t>>& parts, std::vector<size_t>& even) {
    const Node& node = graph_.nodes[i];
    Slots& slots = plan_.layers[i]->slots;
    ESPALIER_CHECK(parts[i].size() == 1 || (parts[i].size() == 2 && is_norm(node.op)),
                   "only a normalization's output may have two readers");
    slots.dy = parts[i][0];
    if (parts[i].size() == 2) slots.more_dy = parts[i][1];
    slots.even = even[i];
    ESPALIER_CHECK(
        even[i] == kNoSlot || is_norm(node.op) || node.op == Op::kMaxPool || node.op == Op::kScale,
        "a gate reads node ", i);
    if (node.gate != kNone) {
      slots.dgate = arena_.allocate(bytes(node.gate, plan_.batch));
      parts[static_cast<size_t>(node.gate)].push_back(slots.dgate);
    }
    const bool shares = node.residual >= 0;  // dy, masked, is also the residual's gradient
    const bool wanted = node.input >= 0 && trained[static_cast<size_t>(node.input)];
    if (wanted && node.op == Op::kGate) {
      even[static_cast<size_t>(node.input)] = slots.dx =
          arena_.allocate(means_bytes(node.in, plan_.batch));
    } else if (wanted) {
      const bool in_place = plan_.layers[i]->backward_in_place() && !shares;
      slots.dx = in_place ? slots.dy : arena_.allocate(bytes(node.input, plan_.batch));
      parts[static_cast<size_t>(node.input)].push_back(slots.dx);
    }
    if (shares) parts[static_cast<size_t>(node.residual)].push_back(slots.dy);
    if (!shares && slots.dx != slots.dy) arena_.release(slots.dy);
    if (parts[i].size() == 2) arena_.release(parts[i][1]);
    if (even[i] != kNoSlot) arena_.release(even[i]);
  }

  // One place for all layers, which need it one after the other.
  void place_scratch() {
    size_t most = 0;
    for (const auto& layer : plan_.layers) most = std::max(most, layer->scratch_bytes());
    const size_t scratch = arena_.append(most);
    for (auto& layer : plan_.layers) layer->slots.scratch = scratch;
  }

  NetPlan finish() {
    plan_.arena_bytes = arena_.size();
    return std::move(plan_);
  }

  const Graph& graph_;
  Type net_;
  size_t count_;
  std::vector<Readers> readers_;
  size_t input_read_ = 0;  // the last node that reads the batch
  ArenaPlanner arena_;
  NetPlan plan_;
  std::vector<size_t> values_, means_;
};

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

Type value_type(const Graph& graph, Type net, int node) {
  if (net == Type::kFloat) return Type::kFloat;
  if (node == kGraphInput) {
    const auto reads = [](const Node& n) { return n.input == kGraphInput && n.op == Op::kConv; };
    return std::any_of(graph.nodes.begin(), graph.nodes.end(), reads) ? Type::kBf16 : Type::kFloat;
  }
  const Op op = graph.nodes[static_cast<size_t>(node)].op;
  return op == Op::kConv || op == Op::kMaxPool || op == Op::kScale || is_norm(op) ? Type::kBf16
                                                                                  : Type::kFloat;
}

size_t value_bytes(const Graph& graph, Type net, int node, int64_t batch) {
  const Shape& shape =
      node == kGraphInput ? graph.input : graph.nodes[static_cast<size_t>(node)].out;
  const bool tokens = node == kGraphInput && graph.tokens;
  return static_cast<size_t>(batch * shape.size()) *
         (tokens ? sizeof(int64_t) : type_bytes(value_type(graph, net, node)));
}

NetPlan plan_training(const Graph& graph, Type net, int64_t batch) {
  NetPlan plan = Planner(graph, net, batch).training(false);
  if (plan.arena_bytes > kRoomyBytes) plan = Planner(graph, net, batch).training(true);
  return plan;
}

NetPlan plan_evaluation(const Graph& graph, Type net, int64_t batch, size_t slice_bytes) {
  return Planner(graph, net, batch).evaluation(slice_bytes);
}

}  // namespace espalier::nn
