#include "espalier/infer/gated_bench_dense.h"

#include <cmath>
#include <map>
#include <unordered_map>

#include "espalier/infer/gated_runtime_net.h"
#include "espalier/nn/onednn.h"

namespace espalier::infer {

using dnnl::memory;
using Tag = memory::format_tag;

struct DenseNet::Impl {
  Graph graph;
  dnnl::stream stream{cpu_engine()};
  memory input, output;
  std::vector<std::pair<dnnl::primitive, std::unordered_map<int, memory>>> calls;
  std::vector<LargePages> stored;
  std::vector<memory> values;
  std::vector<memory> kept;  // weights

  memory& value(int node) {
    return node == kGraphInput ? input : values[static_cast<size_t>(node)];
  }

  // The values in the wanted order: the memory itself or, by one more call, a copy.
  memory in_order(const memory& from, const memory::desc& wanted) {
    if (from.get_desc() == wanted) return from;
    memory to(wanted, cpu_engine());
    calls.push_back({dnnl::reorder(from, to), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}});
    return to;
  }

  memory store(std::vector<float>& weights, const memory::desc& from, const memory::desc& to) {
    stored.emplace_back(to.get_size() / sizeof(float));
    memory source(from, cpu_engine(), weights.data()),
        packed(to, cpu_engine(), stored.back().data());
    dnnl::reorder(source, packed).execute(stream, source, packed);
    stream.wait();
    return packed;
  }

  int reader(int node) const {
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      if (graph.nodes[i].input == node) return static_cast<int>(i);
    }
    return kNone;
  }

  // The convolution `index` and the batch normalization `norm` behind it, or kNone.
  void add_conv(int index, int norm, const ParameterSet& weights) {
    const Node& n = graph.nodes[static_cast<size_t>(index)];
    const auto tensor = [&](int i) {
      return weights.values(weights.layout().tensors()[static_cast<size_t>(i)]);
    };
    const auto raw = tensor(n.weight);
    std::vector<float> w(raw.begin(), raw.end()), b(static_cast<size_t>(n.out.channels), 0.0f);
    if (n.bias != kNone) std::copy_n(tensor(n.bias).begin(), b.size(), b.begin());
    bool relu = n.relu;
    int residual = kNone;
    if (norm != kNone) {
      const Node& m = graph.nodes[static_cast<size_t>(norm)];
      relu = m.relu;
      residual = m.residual;
      for (size_t c = 0; c < b.size(); ++c) {
        const float scale = tensor(m.weight)[c] / std::sqrt(tensor(m.variance)[c] + kNormEpsilon);
        b[c] = tensor(m.bias)[c] + scale * (b[c] - tensor(m.mean)[c]);
        const size_t row = w.size() / b.size();
        for (size_t i = 0; i < row; ++i) w[c * row + i] *= scale;
      }
    }
    const auto f32 = memory::data_type::f32;
    const memory::dims dims = {n.out.channels, n.in.channels, n.kernel, n.kernel};
    const memory::desc x({1, n.in.channels, n.in.height, n.in.width}, f32, Tag::any);
    const memory::desc y({1, n.out.channels, n.out.height, n.out.width}, f32, Tag::any);
    const memory::desc bias({n.out.channels}, f32, Tag::a);
    dnnl::post_ops ops;
    if (residual != kNone) ops.append_sum(1.0f);
    if (relu) ops.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(ops);
    const dnnl::convolution_forward::primitive_desc desc({dnnl::prop_kind::forward_inference,
                                                          dnnl::algorithm::convolution_direct,
                                                          x,
                                                          memory::desc(dims, f32, Tag::any),
                                                          bias,
                                                          y,
                                                          {n.stride, n.stride},
                                                          {n.padding, n.padding},
                                                          {n.padding, n.padding}},
                                                         attributes, cpu_engine());
    const memory source = in_order(value(n.input), desc.src_desc());
    // The sum is formed in the residual's place, whose last reader this is.
    const memory target = residual == kNone ? memory(desc.dst_desc(), cpu_engine())
                                            : in_order(value(residual), desc.dst_desc());
    const memory packed = store(w, {dims, f32, Tag::oihw}, desc.weights_desc());
    const memory shift = store(b, bias, bias);
    calls.push_back({dnnl::convolution_forward(desc),
                     {{DNNL_ARG_SRC, source},
                      {DNNL_ARG_WEIGHTS, packed},
                      {DNNL_ARG_BIAS, shift},
                      {DNNL_ARG_DST, target}}});
    values[static_cast<size_t>(norm == kNone ? index : norm)] = target;
  }

  void add_pool(int index) {
    const Node& n = graph.nodes[static_cast<size_t>(index)];
    const bool average = n.op == Op::kGlobalAverage;
    const memory source = value(n.input);
    const memory::dims window =
        average ? memory::dims{n.in.height, n.in.width} : memory::dims{n.kernel, n.kernel};
    const memory::desc y({1, n.out.channels, n.out.height, n.out.width}, memory::data_type::f32,
                         Tag::any);
    const dnnl::pooling_forward::primitive_desc desc(
        {dnnl::prop_kind::forward_inference,
         average ? dnnl::algorithm::pooling_avg_exclude_padding : dnnl::algorithm::pooling_max,
         source.get_desc(),
         y,
         window,
         window,
         {0, 0},
         {0, 0}},
        cpu_engine());
    const memory target(desc.dst_desc(), cpu_engine());
    calls.push_back(
        {dnnl::pooling_forward(desc), {{DNNL_ARG_SRC, source}, {DNNL_ARG_DST, target}}});
    values[static_cast<size_t>(index)] = target;
  }

  void add_linear(int index, const ParameterSet& weights) {
    const Node& n = graph.nodes[static_cast<size_t>(index)];
    const auto tensor = [&](int i) {
      return weights.values(weights.layout().tensors()[static_cast<size_t>(i)]);
    };
    std::vector<float> w(tensor(n.weight).begin(), tensor(n.weight).end()),
        b(tensor(n.bias).begin(), tensor(n.bias).end());
    const memory from = value(n.input);
    memory::dims x = from.get_desc().dims(), dims = x;
    dims[0] = n.out.channels;
    const auto f32 = memory::data_type::f32;
    const memory::desc bias({n.out.channels}, f32, Tag::a);
    dnnl::post_ops ops;
    if (n.relu) ops.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(ops);
    const dnnl::inner_product_forward::primitive_desc desc(
        {dnnl::prop_kind::forward_inference, memory::desc(x, f32, Tag::any),
         memory::desc(dims, f32, Tag::any), bias, memory::desc({1, n.out.channels}, f32, Tag::nc)},
        attributes, cpu_engine());
    const memory source = in_order(from, desc.src_desc());
    const memory target(desc.dst_desc(), cpu_engine());
    const memory packed =
        store(w, {dims, f32, dims.size() == 4 ? Tag::oihw : Tag::oi}, desc.weights_desc());
    calls.push_back({dnnl::inner_product_forward(desc),
                     {{DNNL_ARG_SRC, source},
                      {DNNL_ARG_WEIGHTS, packed},
                      {DNNL_ARG_BIAS, store(b, bias, bias)},
                      {DNNL_ARG_DST, target}}});
    values[static_cast<size_t>(index)] = target;
  }
};

DenseNet::DenseNet(const Graph& graph, const ParameterSet& weights) : impl_(new Impl) {
  Impl& m = *impl_;
  m.graph = graph;
  m.values.resize(graph.nodes.size());
  m.input = memory({{1, graph.input.channels, graph.input.height, graph.input.width},
                    memory::data_type::f32,
                    Tag::nhwc},
                   cpu_engine());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const auto index = static_cast<int>(i);
    const Node& n = graph.nodes[i];
    switch (n.op) {
      case Op::kConv: {
        const int next = m.reader(index);
        if (next == kNone || graph.nodes[static_cast<size_t>(next)].op != Op::kBatchNorm)
          m.add_conv(index, kNone, weights);
        break;
      }
      case Op::kBatchNorm:
        m.add_conv(n.input, index, weights);
        break;
      case Op::kMaxPool:
      case Op::kGlobalAverage:
        m.add_pool(index);
        break;
      case Op::kFlatten:
        m.values[i] = m.value(n.input);
        break;
      case Op::kLinear:
        m.add_linear(index, weights);
        break;
      case Op::kGroupNorm:
      case Op::kGate:
      case Op::kScale:
      case Op::kEmbedding:
      case Op::kLstm:
        fail("bench/gated", "the baseline runs nets with batch normalization and without gates");
    }
  }
  m.output = m.values.back();
}

DenseNet::~DenseNet() = default;

void DenseNet::run(std::span<const float> sample, std::span<float> logits) {
  Impl& m = *impl_;
  std::copy(sample.begin(), sample.end(), static_cast<float*>(m.input.get_data_handle()));
  for (auto& [primitive, arguments] : m.calls) primitive.execute(m.stream, arguments);
  m.stream.wait();
  std::copy_n(static_cast<const float*>(m.output.get_data_handle()), logits.size(), logits.begin());
}

}  // namespace espalier::infer
