#pragma once

#include <memory>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/random.h"
#include "espalier/client/client_state.h"
#include "espalier/codec/codec.h"
#include "espalier/prune/mask.h"
#include "espalier/wire/task.h"

// What a client does to a payload between training and encoding: an ordered list of stages, each a
// small object made for one payload. Error feedback is one; clipping, noise, fixed point and
// masking take their places in the same list. What must be undone on the server (an estimate that
// is sent as a difference) has its counterpart among the rules of sums (strategy/sum_rules.h).
namespace espalier::client {

// What a stage knows of the payload at hand.
struct StageInput {
  const std::string& payload;     // its name
  const ClientState* previous;    // null: nothing is remembered that fits
  const prune::Mask* mask;        // the values are those that it keeps; null: all
  const ParameterLayout& layout;  // of the payload without mask
};

class UpdateStage {
 public:
  virtual ~UpdateStage() = default;
  // What is sent in place of x, of the same layout. Stages are called in order.
  virtual ParameterSet before(const StageInput& input, const ParameterSet& x) = 0;
  // Whether after() is wanted: it costs decoding the message.
  virtual bool looks_back() const { return false; }
  // Called in reverse order, with what before() returned and what the receiver will have of it;
  // leaves in `received` what the receiver makes of that, which is what the stage before has of its
  // own. What the next round needs goes to `next`.
  virtual void after(const StageInput& input, const ParameterSet& sent, ParameterSet& received,
                     ClientState& next) {
    static_cast<void>(input);
    static_cast<void>(sent);
    static_cast<void>(received);
    static_cast<void>(next);
  }
};

struct UpdateStageRow {
  std::string name;
  bool masks;      // whether it can work on a masked payload
  bool remembers;  // whether it keeps a memory per payload; at most one stage of a list may
  std::unique_ptr<UpdateStage> (*make)();
};
const std::vector<UpdateStageRow>& update_stage_rows();
// Rows of the table, in the order in which they are applied.
using UpdateStages = std::vector<const UpdateStageRow*>;
// The stages of these names; Error for an unknown one, and for two that would share a memory.
UpdateStages find_update_stages(const std::vector<std::string>& names);

// Appends the message of one payload that has passed the stages to `out`, and what they must
// remember to `next`. Error when a value is refused; then `next` is of no use.
void encode_through(const UpdateStages& stages, const codec::Codec& codec,
                    const ClientState* previous, const wire::Payload& payload,
                    const prune::Mask* mask, Key key, ClientState& next, Bytes& out);

}  // namespace espalier::client
