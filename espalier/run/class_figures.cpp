#include "espalier/run/class_figures.h"

#include <algorithm>

namespace espalier::run {

namespace {

constexpr size_t kMaxNeverFound = 20, kMaxRecalls = 100;
constexpr const char* kKeys[] = {"balanced_accuracy", "never_found", "num_never_found", "recall"};

}  // namespace

void add_class_figures(std::span<const train::ClassCount> classes, const std::string& prefix,
                       Json& out) {
  const auto figures = train::class_figures(classes);
  if (!figures) return;
  out[prefix + "balanced_accuracy"] = figures->balanced_accuracy;
  auto shown = figures->never_found;
  shown.resize(std::min(shown.size(), kMaxNeverFound));
  out[prefix + "never_found"] = shown;
  out[prefix + "num_never_found"] = figures->never_found.size();
  if (classes.size() > kMaxRecalls) return;
  Json& recall = out[prefix + "recall"] = Json::object();
  for (const train::ClassCount& c : classes) {
    recall[std::to_string(c.label)] = static_cast<double>(c.correct) / static_cast<double>(c.count);
  }
}

void copy_class_figures(const Json& from, const std::string& old_prefix, const std::string& prefix,
                        Json& out) {
  for (const char* key : kKeys) {
    if (const auto found = from.find(old_prefix + key); found != from.end())
      out[prefix + key] = *found;
  }
}

}  // namespace espalier::run
