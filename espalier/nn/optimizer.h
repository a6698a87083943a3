#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "espalier/params/parameter_set.h"
#include "espalier/train/trainer.h"

// Client optimizers as single passes over flat buffers, with PyTorch's formulas (torch.optim.SGD,
// Adam, AdamW of 1.13; weights decay after clipping, and SGD's first momentum is the first
// gradient).
namespace espalier::nn {

// The engine fulfils the contract of train and speaks its words.
using namespace train;

// [begin, end) of a flat buffer.
struct Segment {
  size_t begin, end;
};

class Optimizer {
 public:
  Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Starts anew, as a client does in every round; memory of an earlier start is used again. Or goes
  // on from `state`, in which the next steps work; it must outlive them. Throws Error when a state
  // with steps is not one of this optimizer and size.
  void start(const StepOptions& options, size_t size, OptimizerState* state = nullptr);
  // Bytes of the state of `size` values.
  static uint64_t state_bytes(const StepOptions& options, size_t size);
  // One step on the given parts of the buffers.
  void step(std::span<float> weights, std::span<const float> gradients,
            const std::vector<Segment>& segments);

 private:
  StepOptions options_;
  OptimizerState own_;
  OptimizerState* state_ = &own_;
};

// Scales the gradient to an L2 norm of at most `limit`, as torch.nn.utils.clip_grad_norm_ does.
void clip_norm(std::span<float> gradients, const std::vector<Segment>& segments, double limit);

}  // namespace espalier::nn
