#include "espalier/script/script_notes.h"

#include <ATen/ATen.h>

#include "espalier/script/script_module.h"
#include "espalier/script/script_random.h"

namespace espalier::script {
namespace {

constexpr size_t kMostNamed = 4;

std::string frozen_note(const ScriptModule& module) {
  std::string names;
  const size_t count = module.num_frozen();
  for (size_t i = 0; i < std::min(count, kMostNamed); ++i)
    names += concat(i > 0 ? ", " : "", module.fixed()[i].name);
  if (count > kMostNamed) names += concat(" and ", count - kMostNamed, " more");
  return concat("frozen (requires_grad = False): ", names,
                count == 1 ? "; it keeps the module's values and is not sent"
                           : "; they keep the module's values and are not sent");
}

// Of what the module returns for any samples.
std::string output_note(const at::Tensor& output) {
  const at::Tensor rows = output.to(at::kDouble);
  if (rows.size(1) < 2) return "";
  const auto sum_to_one = [](const at::Tensor& values) {
    return (values.sum(1) - 1).abs().max().item<double>() < 1e-4;
  };
  if (rows.min().item<double>() >= 0 && sum_to_one(rows)) {
    return "the module ends in a softmax, and the loss applies one, too: training is slower for "
           "it; "
           "return the logits";
  }
  if (rows.max().item<double>() <= 0 && sum_to_one(rows.exp())) {
    return "the module ends in a log_softmax; the loss applies one, too, which changes nothing: "
           "the "
           "module could as well return the logits";
  }
  return "";
}

}  // namespace

std::vector<std::string> script_model_notes(const ModelOptions& options, const DataSpec& data) {
  return with_script_errors(options, [&] {
    const c10::NoGradGuard no_grad;
    const RandomScope random(Key(0), true);
    ScriptModule module(options);
    std::vector<std::string> notes;
    if (module.num_frozen() > 0) notes.push_back(frozen_note(module));
    const at::Tensor logits = module.run(random_samples(data, Key(0x6e6f7465)), false);
    if (std::string note = output_note(logits); !note.empty()) notes.push_back(std::move(note));
    return notes;
  });
}

}  // namespace espalier::script
