#include "espalier/script/export_code.h"

#include <sstream>

#include "espalier/script/export_module.h"

namespace espalier::script {
namespace {

class GraphWriter {
 public:
  explicit GraphWriter(const Graph& graph) : graph_(graph) {}

  std::string write() {
    out_ << "def forward(self, x):\n";
    out_.precision(17);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      const std::string y = value(static_cast<int>(i));
      line(y, operation(node));
      if (node.gate != kNone) apply_gate(node, y);
      if (node.residual != kNone) line(y, y + " + " + value(node.residual));
      if (node.relu) line(y, "torch.relu(" + y + ")");
    }
    out_ << "    return " << value(static_cast<int>(graph_.nodes.size()) - 1) << "\n";
    return out_.str();
  }

 private:
  static std::string value(int node) { return node == kGraphInput ? "x" : concat("v", node); }
  std::string tensor(int index) const {
    if (index == kNone) return "None";
    return ModuleTree::expression(graph_.layout->tensors()[static_cast<size_t>(index)].name);
  }
  void line(const std::string& name, const std::string& expression) {
    out_ << "    " << name << " = " << expression << "\n";
  }
  static std::string pair(int64_t n) { return concat("[", n, ", ", n, "]"); }

  std::string operation(const Node& n) {
    // A gate's shift counts only where the gate is open: apply_gate() adds it.
    const std::string x = value(n.input), w = tensor(n.weight),
                      b = shifts_late(n) ? "None" : tensor(n.bias);
    switch (n.op) {
      case Op::kConv:
        return concat("torch.conv2d(", x, ", ", w, ", ", b, ", ", pair(n.stride), ", ",
                      pair(n.padding), ")");
      case Op::kLinear:
        return concat("torch.linear(torch.flatten(", x, ", 1), ", w, ", ", b, ")");
      case Op::kMaxPool:
        return concat("torch.max_pool2d(", x, ", ", pair(n.kernel), ", ", pair(n.stride), ")");
      case Op::kBatchNorm:
        out_ << "    if self.training:\n        " << tensor(n.counter) << ".add_(1)\n";
        return concat("torch.batch_norm(", x, ", ", w, ", ", b, ", ", tensor(n.mean), ", ",
                      tensor(n.variance), ", self.training, ", kMomentum, ", ", kEpsilon,
                      ", True)");
      case Op::kGroupNorm:
        return concat("torch.group_norm(", x, ", ", n.groups, ", ", w, ", ", b, ", ", kEpsilon,
                      ")");
      case Op::kGlobalAverage:
        return concat("torch.mean(", x, ", [2, 3])");
      case Op::kFlatten:
        return concat("torch.flatten(", x, ", 1)");
      case Op::kGate:
        return gate(n, x, w, b);
      case Op::kScale:
        return x;
      case Op::kEmbedding:
        return "torch.embedding(" + w + ", " + x + ")";
      case Op::kLstm:
        return lstm(n, x);
      default:
        fail("train/export", "layer ", &n - graph_.nodes.data() + 1,
             " of this model cannot be written as TorchScript");
    }
  }

  // gates.h. The ratio is read when the model runs, as our engine reads it.
  std::string gate(const Node& n, const std::string& x, const std::string& w,
                   const std::string& b) {
    const std::string mean = "torch.mean(" + x + ", [2, 3])";
    line("s", n.sigmoid ? "torch.sigmoid(" + mean + ")" : mean);
    line("g", "torch.relu(torch.linear(s, " + w + ", " + b + "))");
    line("kept", concat("min(", n.out.channels, ", max(1, (max(1, int(", tensor(n.counter), ")) * ",
                        n.out.channels, " + 500000) // 1000000))"));
    line("order", "torch.sort(g.detach(), stable=True, dim=1, descending=True)[1]");
    return "g * torch.scatter(torch.zeros_like(g), 1, torch.narrow(order, 1, 0, kept), 1.0)";
  }
  std::string lstm(const Node& n, const std::string& x) {
    line("h", concat("torch.zeros([1, ", x, ".size(0), ", n.out.channels, "], dtype=", x,
                     ".dtype, device=", x, ".device)"));
    const std::string sequence =
        concat("torch.lstm(", x, ", [h, h], [", tensor(n.weight), ", ", tensor(n.recurrent), ", ",
               tensor(n.bias), ", ", tensor(n.recurrent_bias),
               "], True, 1, 0.0, self.training, False, True)[0]");
    return n.last ? "torch.select(" + sequence + ", 1, -1)" : sequence;
  }
  static bool shifts_late(const Node& n) { return n.gate != kNone && n.weight == kNone; }
  void apply_gate(const Node& n, const std::string& y) {
    const auto pixels = [](const std::string& v) {
      return "(" + v + ").unsqueeze(-1).unsqueeze(-1)";
    };
    const std::string g = value(n.gate);
    line(y, y + " * " + pixels(g));
    if (shifts_late(n) && n.bias != kNone)
      line(y, y + " + " + pixels("torch.gt(" + g + ", 0).to(" + g + ".dtype) * " + tensor(n.bias)));
  }

  // As a person writes them; kNormEpsilon and kNormMomentum are their nearest floats.
  static constexpr const char *kMomentum = "0.1", *kEpsilon = "1e-05";

  const Graph& graph_;
  std::ostringstream out_;
};

}  // namespace

std::string graph_code(const Graph& graph) { return GraphWriter(graph).write(); }

}  // namespace espalier::script
