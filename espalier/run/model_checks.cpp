#include "espalier/run/model_checks.h"

#include "espalier/base/error.h"
#include "espalier/models/make_trainer.h"

namespace espalier::run {

void check_output(const RunConfig& config, const train::Trainer& trainer) {
  if (!trainer.opaque() || trainer.feature_shape().empty()) return;
  if (!make_strategy(config)->traits().weights_travel) return;
  fail("train/model",
       "the module returns two tensors, which are (features, logits) for FedGKT and "
       "nothing that strategy '",
       config.selection.name, "' could know; set model.output = \"0\" if the first (",
       shape_text(trainer.feature_shape()), " for a sample) has the logits, \"1\" if the second (",
       shape_text({static_cast<int64_t>(trainer.num_logits())}), ") has (", config.model.file, ")");
}

void check_units(const RunConfig& config, const train::DataSpec& data,
                 const train::Trainer& trainer) {
  if (config.submodel.name == "none" || !trainer.layout()->groups().empty()) return;
  fail("config", "[submodel]: model '", config.model.name, "' has no units that could be dropped (",
       why_no_units(config, data), "); remove [submodel] or use another model");
}

std::string why_no_units(const RunConfig& config, const train::DataSpec& data) {
  const auto notes = models::unit_notes(config.model, data);
  return notes.empty() ? "it has no hidden layers" : notes.front();
}

}  // namespace espalier::run
