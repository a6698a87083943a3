#pragma once

#include <string>
#include <vector>

#include "espalier/base/options.h"
#include "espalier/codec/pipeline.h"
#include "espalier/params/layout.h"

namespace espalier::codec {

// Tensors of fewer values travel as float32: scales and padding would cost more than coding saves.
inline constexpr int64_t kMinCodedSize = 512;

// What the default pipeline codes.
constexpr bool is_compressed_role(Role role) {
  return role == Role::kWeight || role == Role::kEmbedding;
}

// Which pipeline codes which tensor. Stage tables without `for` form the default pipeline. Tables
// with `for = "…"` (one pattern, or a list of them) form an override; tables with equal `for`
// belong to one pipeline. A pattern is
//   first, last                      the first or last weight (or embedding) of the layout,
//   weight, bias, norm, embedding, statistic   a role,
//   anything else                    a tensor's name, with * for any characters: "conv*",
//   "fc2.weight".
// The first override with a matching pattern decides. Without one, weights and embeddings of at
// least kMinCodedSize values take the default pipeline and everything else travels as float32.
// Counters are integers and always travel as float32.
class PipelineRules {
 public:
  // `tables`: a list of stage tables; null or empty is the identity. `path` names it in errors.
  PipelineRules(const Json& tables, const std::string& path);

  // Entry 0 is float32, entry 1 the default pipeline (when it is not float32 too), then the
  // overrides.
  const std::vector<Pipeline>& pipelines() const { return pipelines_; }

  // For each tensor of the layout, its pipeline's position in pipelines().
  std::vector<size_t> choose(const ParameterLayout& layout) const;

  // Patterns that are names (not roles, first or last) and match no tensor.
  std::vector<std::string> idle_patterns(const ParameterLayout& layout) const;

  // "hadamard,quantize:bits=4;first|last=quantize:bits=8"
  std::string describe() const;

 private:
  struct Override {
    std::vector<std::string> patterns;
    size_t pipeline;
  };

  std::vector<Pipeline> pipelines_;
  size_t default_ = 0;
  std::vector<Override> overrides_;
};

// Whether `name` matches `pattern`, in which * stands for any characters.
bool glob_match(std::string_view pattern, std::string_view name);

}  // namespace espalier::codec
