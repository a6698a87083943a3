#include <ATen/ATen.h>

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/script/script_walk.h"

// What each analysed operator does to units. A unit that is dropped need not be zero behind an
// activation function: whoever reads it drops its weights too.
namespace espalier::script {
namespace {

using Axis = ScriptLabels::Axis;

Axis whole_axis(int64_t extent) { return Axis(static_cast<size_t>(extent), ScriptLabels::kWhole); }

bool is_tensor(const c10::IValue& value) { return value.isTensor() && value.toTensor().defined(); }

size_t wrapped(int64_t axis, size_t rank) {
  return static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(rank) : axis);
}

}  // namespace

ScriptWalk::Axes ScriptWalk::known(const at::Tensor& tensor, const std::string& name) {
  if (find(tensor) == nullptr) {
    Axes axes;
    for (const int64_t extent : tensor.sizes())
      axes.push_back(refused_axis(
          extent, concat(name, " joins them with a value that could not be followed")));
    bind(tensor, std::move(axes));
  }
  return *find(tensor);
}

ScriptWalk::Axis ScriptWalk::refused_axis(int64_t extent, const std::string& reason) {
  Axis axis = labels_.add_axis(extent);
  labels_.refuse(axis, reason);
  return axis;
}

void ScriptWalk::refuse_if_tracked(const Axis& axis, const std::string& reason) {
  if (labels_.tracked(axis)) labels_.refuse(axis, reason);
}

ScriptWalk::Axis ScriptWalk::resized(const Axis& axis, int64_t extent, const std::string& reason) {
  if (!labels_.tracked(axis)) return whole_axis(extent);
  labels_.refuse(axis, reason);
  return refused_axis(extent, reason);
}

void ScriptWalk::meet(const at::Tensor& a, size_t axis_a, const at::Tensor& b, size_t axis_b,
                      const std::string& name) {
  labels_.join(known(a, name)[axis_a], known(b, name)[axis_b]);
}

void ScriptWalk::contract(const at::Tensor& a, size_t axis_a, const at::Tensor& b, size_t axis_b,
                          const std::string& name) {
  meet(a, axis_a, b, axis_b, name);
  labels_.mark_read(known(a, name)[axis_a]);
}

bool ScriptWalk::elementwise(const Call& call) {
  if (!is_tensor(call.out[0]) || !is_tensor(call.in[0])) return true;
  const at::Tensor x = call.in[0].toTensor(), y = call.out[0].toTensor();
  if (x.sizes() != y.sizes()) return false;
  if (const Axes* axes = find(x); axes != nullptr) bind(y, Axes(*axes));
  return true;
}

bool ScriptWalk::combine(const Call& call) {
  if (!is_tensor(call.out[0])) return true;  // arithmetic of sizes
  const at::Tensor out = call.out[0].toTensor();
  std::vector<at::Tensor> operands;
  for (size_t i = 0; i < 2 && i < call.in.size(); ++i) {
    if (is_tensor(call.in[i])) operands.push_back(call.in[i].toTensor());
  }
  const auto rank = static_cast<size_t>(out.dim());
  Axes axes(rank);
  bool any = false;
  for (size_t axis = 0; axis < rank; ++axis) {
    axes[axis] = whole_axis(out.size(static_cast<int64_t>(axis)));
    const at::Tensor* wide = nullptr;  // the first operand that is not broadcast along this axis
    size_t wide_axis = 0;
    for (const at::Tensor& operand : operands) {
      const auto own = static_cast<size_t>(operand.dim());
      any |= find(operand) != nullptr;
      if (axis + own < rank) continue;
      const size_t at = axis + own - rank;
      if (operand.size(static_cast<int64_t>(at)) == 1) continue;
      if (wide != nullptr) meet(*wide, wide_axis, operand, at, call.name);
      if (const Axes* of = find(operand); of != nullptr) axes[axis] = (*of)[at];
      wide = &operand;
      wide_axis = at;
    }
  }
  if (any) bind(out, std::move(axes));
  return true;
}

bool ScriptWalk::prelu(const Call& call) {
  const at::Tensor x = call.in[0].toTensor(), weight = call.in[1].toTensor();
  if (weight.numel() > 1) {
    if (x.dim() < 2) return false;
    meet(x, 1, weight, 0, call.name);
  }
  return elementwise(call);
}

bool ScriptWalk::convolution(const Call& call) {
  const at::Tensor x = call.in[0].toTensor(), w = call.in[1].toTensor();
  const at::Tensor out = call.out[0].toTensor();
  const bool general = call.name.find("convolution") != std::string::npos;
  if (x.dim() != w.dim() || (general && call.in[6].toBool())) return false;
  const int64_t groups = call.in[general ? 8 : 6].toInt();
  const Axes kernel = known(w, call.name);
  if (groups != 1) {
    const std::string reason = concat("a convolution in ", groups, " groups is not analysed");
    refuse(call.in[0], reason);
    refuse(call.in[1], reason);
    refuse(call.in[2], reason);
  } else {
    contract(x, 1, w, 1, call.name);
    labels_.mark_computed(kernel[0]);
    if (is_tensor(call.in[2])) meet(w, 0, call.in[2].toTensor(), 0, call.name);
  }
  Axes axes = known(x, call.name);
  for (size_t i = 2; i < axes.size(); ++i) {
    labels_.join_whole(kernel[i]);
    axes[i] =
        resized(axes[i], out.size(static_cast<int64_t>(i)), concat(call.name, " slides over them"));
  }
  axes[1] = kernel[0];
  bind(out, std::move(axes));
  return true;
}

bool ScriptWalk::linear(const Call& call) {
  const at::Tensor x = call.in[0].toTensor(), w = call.in[1].toTensor();
  if (w.dim() != 2 || x.dim() < 1) return false;
  contract(x, static_cast<size_t>(x.dim()) - 1, w, 1, call.name);
  Axes axes = known(x, call.name);
  axes.back() = known(w, call.name)[0];
  labels_.mark_computed(axes.back());
  if (is_tensor(call.in[2])) meet(w, 0, call.in[2].toTensor(), 0, call.name);
  bind(call.out[0].toTensor(), std::move(axes));
  return true;
}

bool ScriptWalk::product(const Call& call) {
  const size_t first = call.name == "aten::addmm" ? 1 : 0;
  const at::Tensor a = call.in[first].toTensor(), b = call.in[first + 1].toTensor();
  const auto rank_a = static_cast<size_t>(a.dim()), rank_b = static_cast<size_t>(b.dim());
  if (rank_a < 2 || rank_b < 2 || (rank_b > 2 && rank_a != rank_b)) return false;
  contract(a, rank_a - 1, b, rank_b - 2, call.name);
  for (size_t i = 0; rank_b > 2 && i + 2 < rank_b; ++i) {
    const auto axis = static_cast<int64_t>(i);
    if (a.size(axis) != b.size(axis)) return false;
    meet(a, i, b, i, call.name);
  }
  Axes axes = known(a, call.name);
  labels_.mark_computed(axes[rank_a - 2]);
  axes.back() = known(b, call.name).back();
  labels_.mark_computed(axes.back());
  const at::Tensor out = call.out[0].toTensor();
  bind(out, std::move(axes));
  if (first == 1) {
    const at::Tensor bias = call.in[0].toTensor();
    if (bias.dim() != 1) return false;
    if (bias.size(0) > 1) meet(out, 1, bias, 0, call.name);
  }
  return true;
}

bool ScriptWalk::batch_norm(const Call& call) {
  const at::Tensor x = call.in[0].toTensor();
  if (x.dim() < 2) return false;
  for (size_t i = 1; i <= 4; ++i) {
    if (is_tensor(call.in[i])) meet(x, 1, call.in[i].toTensor(), 0, call.name);
  }
  return elementwise(call);
}

// Layer and group normalization: what they average over stays whole, because every unit changes all
// others.
bool ScriptWalk::normalize(const Call& call) {
  const at::Tensor x = call.in[0].toTensor();
  const bool by_group = call.name == "aten::group_norm";
  const auto rank = static_cast<size_t>(x.dim());
  const size_t count = by_group ? rank - 1 : call.in[1].toIntVector().size();
  const Axes axes = known(x, call.name);
  for (size_t i = rank - count; i < rank; ++i)
    refuse_if_tracked(axes[i], concat(call.name, " averages over them"));
  for (const size_t i : {size_t{2}, size_t{3}}) {
    if (!is_tensor(call.in[i])) continue;
    const at::Tensor scale = call.in[i].toTensor();
    for (size_t axis = 0; axis < static_cast<size_t>(scale.dim()); ++axis)
      meet(x, by_group ? 1 : rank - count + axis, scale, axis, call.name);
  }
  return elementwise(call);
}

bool ScriptWalk::pool(const Call& call) {
  const at::Tensor x = call.in[0].toTensor(), out = call.out[0].toTensor();
  const size_t spatial = static_cast<size_t>(call.name[call.name.size() - 2] - '0');
  Axes axes = known(x, call.name);
  for (size_t i = axes.size() - spatial; i < axes.size(); ++i) {
    axes[i] =
        resized(axes[i], out.size(static_cast<int64_t>(i)), concat(call.name, " slides over them"));
  }
  bind(out, std::move(axes));
  return true;
}

bool ScriptWalk::reduce(const Call& call) {
  if (call.in.size() < 3 || !call.in[1].isIntList() || !call.in[2].isBool()) return false;
  const at::Tensor x = call.in[0].toTensor();
  const Axes axes = known(x, call.name);
  std::vector<bool> gone(axes.size(), call.in[1].toIntVector().empty());
  for (const int64_t axis : call.in[1].toIntVector()) gone[wrapped(axis, axes.size())] = true;
  Axes left;
  for (size_t i = 0; i < axes.size(); ++i) {
    if (gone[i]) refuse_if_tracked(axes[i], concat(call.name, " adds them up"));
    if (!gone[i]) left.push_back(axes[i]);
    if (gone[i] && call.in[2].toBool()) left.push_back(whole_axis(1));
  }
  bind(call.out[0].toTensor(), std::move(left));
  return true;
}

bool ScriptWalk::softmax(const Call& call) {
  const Axes axes = known(call.in[0].toTensor(), call.name);
  refuse_if_tracked(axes[wrapped(call.in[1].toInt(), axes.size())],
                    concat(call.name, " normalizes over them"));
  return elementwise(call);
}

// Any change of shape that keeps the order of the values: the two shapes fall into segments of
// equal product; inside one, axes are merged and split again. At most one axis of a segment may
// carry units, and after a split one axis must carry them alone.
bool ScriptWalk::reshape(const Call& call) {
  const at::Tensor x = call.in[0].toTensor(), out = call.out[0].toTensor();
  const Axes* before = find(x);
  if (before == nullptr) return true;
  if (x.numel() == 0) return false;
  const Axes from = *before;
  Axes to(static_cast<size_t>(out.dim()));
  size_t i = 0, j = 0;
  const auto extent = [](const at::Tensor& t, size_t axis) {
    return t.size(static_cast<int64_t>(axis));
  };
  while (i < from.size() || j < to.size()) {
    const size_t begin_i = i, begin_j = j;
    int64_t product_i = i < from.size() ? extent(x, i++) : 1;
    int64_t product_j = j < to.size() ? extent(out, j++) : 1;
    while (product_i != product_j) {
      if (product_i < product_j) {
        product_i *= extent(x, i++);
      } else {
        product_j *= extent(out, j++);
      }
    }
    Axis merged = {ScriptLabels::kWhole};
    int carriers = 0;
    for (size_t k = begin_i; k < i; ++k) {
      const bool carries = labels_.tracked(from[k]);
      carriers += carries ? 1 : 0;
      Axis next;
      for (const ScriptLabels::Label label : merged) {
        for (const ScriptLabels::Label own : from[k]) next.push_back(carries ? own : label);
      }
      merged = std::move(next);
    }
    if (carriers > 1) return false;
    // Every label of the segment's values must be a function of one output axis.
    size_t carrier = begin_j, inner = merged.size();
    bool found = false;
    for (size_t k = begin_j; k < j && !found; ++k) {
      const auto own = static_cast<size_t>(extent(out, k));
      inner /= own;
      to[k].assign(own, ScriptLabels::kWhole);
      for (size_t v = 0; v < own; ++v) to[k][v] = merged[v * inner];
      found = true;
      for (size_t v = 0; v < merged.size() && found; ++v)
        found = merged[v] == to[k][(v / inner) % own];
      carrier = k;
    }
    if (carriers > 0 && !found) return false;
    for (size_t k = begin_j; k < j; ++k) {
      if (k != carrier || carriers == 0) to[k] = whole_axis(extent(out, k));
    }
  }
  bind(out, std::move(to));
  return true;
}

bool ScriptWalk::permute(const Call& call) {
  const at::Tensor x = call.in[0].toTensor();
  const Axes* before = find(x);
  if (before == nullptr) return true;
  const Axes from = *before;
  Axes to = from;
  if (call.name == "aten::permute") {
    const std::vector<int64_t> order = call.in[1].toIntVector();
    for (size_t i = 0; i < to.size(); ++i) to[i] = from[wrapped(order[i], from.size())];
  } else if (call.name == "aten::transpose") {
    std::swap(to[wrapped(call.in[1].toInt(), to.size())],
              to[wrapped(call.in[2].toInt(), to.size())]);
  } else {
    std::ranges::reverse(to);
  }
  bind(call.out[0].toTensor(), std::move(to));
  return true;
}

bool ScriptWalk::expand(const Call& call) {
  const at::Tensor x = call.in[0].toTensor(), out = call.out[0].toTensor();
  const Axes* before = find(x);
  if (before == nullptr) return true;
  const Axes from = *before;
  Axes to;
  const size_t added = static_cast<size_t>(out.dim()) - from.size();
  for (size_t i = 0; i < static_cast<size_t>(out.dim()); ++i) {
    const int64_t extent = out.size(static_cast<int64_t>(i));
    const bool same = i >= added && static_cast<int64_t>(from[i - added].size()) == extent;
    to.push_back(
        same ? from[i - added]
             : refused_axis(extent, concat(call.name, " joins them with an axis of fixed size")));
  }
  bind(out, std::move(to));
  return true;
}

bool ScriptWalk::concatenate(const Call& call) {
  const std::vector<at::Tensor> parts = call.in[0].toTensorVector();
  const size_t rank = static_cast<size_t>(call.out[0].toTensor().dim());
  const size_t along = wrapped(call.in[1].toInt(), rank);
  Axes out = known(parts[0], call.name);
  for (size_t p = 1; p < parts.size(); ++p) {
    if (static_cast<size_t>(parts[p].dim()) != rank) return false;
    const Axes axes = known(parts[p], call.name);
    for (size_t i = 0; i < rank; ++i) {
      if (i != along) meet(parts[0], i, parts[p], i, call.name);
    }
    out[along].insert(out[along].end(), axes[along].begin(), axes[along].end());
  }
  bind(call.out[0].toTensor(), std::move(out));
  return true;
}

bool ScriptWalk::select(const Call& call) {
  Axes axes = known(call.in[0].toTensor(), call.name);
  const size_t along = wrapped(call.in[1].toInt(), axes.size());
  refuse_if_tracked(axes[along], concat(call.name, " takes one of them"));
  axes.erase(axes.begin() + static_cast<std::ptrdiff_t>(along));
  bind(call.out[0].toTensor(), std::move(axes));
  return true;
}

bool ScriptWalk::slice(const Call& call) {
  const at::Tensor out = call.out[0].toTensor();
  Axes axes = known(call.in[0].toTensor(), call.name);
  const size_t along = wrapped(call.in[1].toInt(), axes.size());
  const int64_t left = out.size(static_cast<int64_t>(along));
  if (left != static_cast<int64_t>(axes[along].size())) {
    axes[along] = resized(axes[along], left, concat(call.name, " takes a part of them"));
  }
  bind(out, std::move(axes));
  return true;
}

bool ScriptWalk::embedding(const Call& call) {
  const at::Tensor table = call.in[0].toTensor();
  const Axes rows = known(table, call.name);
  labels_.join_whole(rows[0]);
  labels_.mark_computed(rows[1]);
  Axes axes = known(call.in[1].toTensor(), call.name);
  axes.push_back(rows[1]);
  bind(call.out[0].toTensor(), std::move(axes));
  return true;
}

bool ScriptWalk::nothing(const Call&) { return true; }

const std::unordered_map<std::string, ScriptWalk::Rule>& ScriptWalk::rules() {
  static const auto table = [] {
    std::unordered_map<std::string, Rule> rules;
    const auto add = [&](Rule rule, std::initializer_list<const char*> names) {
      for (const std::string name : names) rules["aten::" + name] = rule;
    };
    add(&ScriptWalk::elementwise, {"relu",         "relu_",         "relu6",
                                   "relu6_",       "leaky_relu",    "leaky_relu_",
                                   "gelu",         "silu",          "silu_",
                                   "tanh",         "tanh_",         "sigmoid",
                                   "sigmoid_",     "hardtanh",      "hardtanh_",
                                   "hardswish",    "hardswish_",    "hardsigmoid",
                                   "elu",          "elu_",          "selu",
                                   "selu_",        "celu",          "softplus",
                                   "mish",         "softsign",      "dropout",
                                   "dropout_",     "alpha_dropout", "feature_dropout",
                                   "threshold",    "threshold_",    "clamp",
                                   "clamp_",       "clamp_min",     "clamp_max",
                                   "hardsigmoid_", "abs",           "neg",
                                   "exp",          "log",           "log1p",
                                   "sqrt",         "rsqrt",         "square",
                                   "reciprocal",   "erf",           "sin",
                                   "cos",          "sign",          "contiguous",
                                   "clone",        "detach",        "to",
                                   "type_as",      "float",         "alias",
                                   "zeros_like",   "ones_like",     "rsub"});
    add(&ScriptWalk::combine, {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_",
                               "maximum", "minimum", "pow", "__iadd__", "__imul__"});
    add(&ScriptWalk::prelu, {"prelu"});
    add(&ScriptWalk::convolution, {"conv1d", "conv2d", "conv3d", "_convolution", "convolution"});
    add(&ScriptWalk::linear, {"linear"});
    add(&ScriptWalk::product, {"addmm", "mm", "matmul", "bmm"});
    add(&ScriptWalk::batch_norm, {"batch_norm"});
    add(&ScriptWalk::normalize, {"layer_norm", "group_norm"});
    add(&ScriptWalk::pool,
        {"max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
         "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"});
    add(&ScriptWalk::reduce, {"mean", "sum", "amax", "amin"});
    add(&ScriptWalk::softmax, {"softmax", "log_softmax"});
    add(&ScriptWalk::reshape,
        {"flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", "view_as"});
    add(&ScriptWalk::permute, {"t", "transpose", "permute", "numpy_T"});
    add(&ScriptWalk::expand, {"expand", "expand_as"});
    add(&ScriptWalk::concatenate, {"cat", "concat"});
    add(&ScriptWalk::select, {"select"});
    add(&ScriptWalk::slice, {"slice"});
    add(&ScriptWalk::embedding, {"embedding"});
    // They ask for a shape or a type, or move tensors in and out of lists.
    add(&ScriptWalk::nothing,
        {"size", "dim", "len", "numel", "is_floating_point", "is_contiguous", "__is__", "__isnot__",
         "append", "__getitem__", "list", "warn", "format"});
    for (const char* name : {"prim::device", "prim::dtype", "prim::layout", "prim::shape",
                             "prim::is_cuda", "prim::RaiseException"})
      rules[name] = &ScriptWalk::nothing;
    return rules;
  }();
  return table;
}

}  // namespace espalier::script
