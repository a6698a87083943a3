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
  static const ForeignEngine libtorch = {.models = {{.row = torchscript_row(),
                                                     .make = script::make_script_net,
                                                     .unit_notes = script::script_unit_notes,
                                                     .model_notes = script::script_model_notes}},
                                         .make_graph_net = torch::make_torch_graph_net,
                                         .check_device = torch::check_device,
                                         .archive = script::torchscript_archive,
                                         .configure_process = torch::configure_process,
                                         .configure_thread = torch::configure_thread};
  return libtorch;
}

}  // namespace espalier::models
