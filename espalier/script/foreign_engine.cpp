// What libtorch brings to the table of models.
#include "espalier/models/foreign.h"
#include "espalier/script/export.h"
#include "espalier/script/script_net.h"
#include "espalier/script/script_notes.h"
#include "espalier/script/script_units.h"
#include "espalier/torch/process.h"
#include "espalier/torch/torch_net.h"

namespace espalier::models {

const ForeignEngine& foreign_engine() {
  static const ForeignEngine libtorch = {
      {{torchscript_row(), script::make_script_net, script::script_unit_notes,
        script::script_model_notes}},
      torch::make_torch_graph_net,
      torch::check_device,
      script::torchscript_archive,
      torch::configure_process,
      torch::configure_thread};
  return libtorch;
}

}  // namespace espalier::models
