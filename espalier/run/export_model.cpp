#include "espalier/run/export_model.h"

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/models/foreign.h"
#include "espalier/models/make_trainer.h"
#include "espalier/run/runtime_measure.h"
#include "espalier/run/runtime_pruned.h"

namespace espalier::run {

// Dense and pruned networks side by side, each with the bytes of its TorchScript file; the one that
// was asked for is written.
Json export_model(const ModelArguments& arguments, const std::string& runtime,
                  const std::filesystem::path& file) {
  const bool any = runtime.empty();
  bool prune = any || runtime == "pruned";
  if (!prune && runtime != "dense") {
    fail("export", unknown_name_message("runtime", runtime, {"dense", "pruned"}));
  }
  if (std::filesystem::is_directory(file)) {
    fail("export", "expected --out to be a file such as ", (file / "model.pt").string(),
         ", got a folder (", file.string(), ")");
  }
  if (file.has_parent_path() && !std::filesystem::is_directory(file.parent_path()))
    fail("export", "there is no folder ", file.parent_path().string(), " to write to");
  const auto archive = models::foreign_engine().archive;
  if (archive == nullptr) {
    fail("export",
         "TorchScript files are written by libtorch, and this program was built without it "
         "(ESPALIER_TORCH=OFF)");
  }
  const TrainedModel model = open_model("export", arguments);
  refuse_overwriting(file, model.inputs);
  models::ExportedModel exported{
      model.config.model, model.spec, {}, model.data.test->mean, model.data.test->stddev};
  Json out = {{"file", file.string()}, {"model", model.config.model.name}};
  if (!model.notes.empty()) out["notes"] = model.notes;
  PrunedModel pruned;
  if (prune) {
    try {
      pruned = prune_model(model);
    } catch (const NotPrunable& error) {
      if (!any) throw;
      prune = false;
      const std::string why = error.what();
      out["note"] = concat("exported dense: ",
                           why.substr(why.find("] ") + 2, why.rfind("; use") - why.find("] ") - 2));
    }
  }
  if (prune) {
    out.update(describe(pruned));
    out["variants"] = measure(model, {{"dense", pruned.whole.get(), &pruned.dense},
                                      {"pruned", pruned.smaller.get(), &pruned.pruned}});
    out["variants"].erase("ratio");
    const Bytes dense = archive(exported, pruned.dense);
    exported.units = pruned.units;
    const Bytes smaller = archive(exported, pruned.pruned);
    out["variants"]["dense"]["file_bytes"] = dense.size();
    out["variants"]["pruned"]["file_bytes"] = smaller.size();
    add_ratio(out["variants"]);
    write_file_atomic(file, smaller);
    return out;
  }
  const auto trainer = make_trainer(model);
  const ParameterSet weights = read_weights(model, *trainer);
  trainer->load(weights);
  out["variants"] = measure(model, {{"dense", trainer.get(), &weights}});
  const Bytes bytes = archive(exported, weights);
  out["variants"]["dense"]["file_bytes"] = bytes.size();
  write_file_atomic(file, bytes);
  return out;
}

}  // namespace espalier::run
