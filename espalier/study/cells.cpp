#include "espalier/study/cells.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <optional>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/report/run_folder.h"
#include "espalier/run/run_config.h"
#include "espalier/run/sources.h"

namespace espalier::study {

namespace fs = std::filesystem;

namespace {

// The part of a folder's name that a person reads.
std::string slug(std::string_view name) {
  constexpr size_t kLongest = 48;
  std::string out;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '.') {
      out += static_cast<char>(std::tolower(byte));
    } else if (!out.empty() && out.back() != '-') {
      out += '-';
    }
  }
  out.resize(std::min(out.size(), kLongest));
  while (!out.empty() && (out.back() == '-' || out.back() == '.')) out.pop_back();
  while (!out.empty() && out.front() == '.') out.erase(0, 1);  // no hidden folders
  return out.empty() ? "variant" : out;
}

std::string hash(std::string_view text) {
  const auto* data = reinterpret_cast<const uint8_t*>(text.data());
  return sha256_hex({data, text.size()}).substr(0, 16);
}

std::string text_at(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

enum class Ending : uint8_t {
  kOpen,      // there are rounds to run
  kFinished,  // all are run, and each of them is in metrics.jsonl
  kDamaged,   // it says that it is through and has lost rounds: going on would not bring them back
};

// What a table shows are the rounds of metrics.jsonl. That file grows while a run goes on, so that
// it is looked at only where summary.json, which is written whole and last, says that all is done.
Ending ending_of(const fs::path& run, uint64_t rounds) {
  try {
    const auto folder = report::RunFolder::open(run);
    const auto summary = folder.summary();
    const auto done = summary ? report::number_in(*summary, "rounds_completed") : std::nullopt;
    if (!done || *done < static_cast<double>(rounds)) return Ending::kOpen;
    const auto told = static_cast<double>(folder.metrics().size());
    return told >= *done ? Ending::kFinished : Ending::kDamaged;
  } catch (const Error&) {
    return Ending::kDamaged;  // one of the two cannot be read
  }
}

// A folder under cells/ that holds a run.
struct Stored {
  fs::path folder;
  Json config;  // as this build resolves it
  std::string identity, build, version;
  // With data.root left open: a run writes down where its data were found.
  std::string identity_anywhere;
  Ending ending = Ending::kOpen;
};

std::optional<Stored> read_stored(const fs::path& folder) {
  Stored stored;
  stored.folder = folder;
  try {
    const Json tree = read_toml_file(folder / "config.toml");
    stored.build = text_at(tree, "build");
    stored.version = text_at(tree, "version");
    const run::RunConfig config = run::read_run_config(tree);
    stored.config = config.resolved;
    const fs::path inputs = report::RunFolder::open(folder).inputs_path();
    stored.identity = identity_of(config.resolved, inputs);
    Json anywhere = config.resolved;
    anywhere["data"]["root"] = "";
    stored.identity_anywhere = identity_of(anywhere, inputs);
    stored.ending = ending_of(folder, static_cast<uint64_t>(config.run.rounds));
  } catch (const Error&) {
    return std::nullopt;  // of a build that knew other keys, say: nothing that counts here
  }
  return stored;
}

std::vector<Stored> read_folder(const fs::path& cells) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(cells, error))
    if (report::RunFolder::is_run(entry.path())) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());  // the same whatever the file system's order
  std::vector<Stored> stored;
  for (const fs::path& folder : folders)
    if (auto found = read_stored(folder)) stored.push_back(std::move(*found));
  return stored;
}

// A study that does not say where the data are takes a run wherever it found them.
bool same_run(const Stored& stored, const Cell& cell) {
  const bool anywhere = text_at(cell.config.at("data"), "root").empty();
  return (anywhere ? stored.identity_anywhere : stored.identity) == cell.identity;
}

// "train.lr was 0.1 and is 0.2": up to three keys.
std::string difference(const Json& before, const Json& now) {
  std::map<std::string, std::string> old_values, new_values;
  for (const Assignment& one : assignments_of(before)) old_values[one.key] = one.value.dump();
  for (const Assignment& one : assignments_of(now)) new_values[one.key] = one.value.dump();
  for (auto* values : {&old_values, &new_values})
    for (const char* key : {"version", "build"}) values->erase(key);
  const auto value = [](const std::map<std::string, std::string>& values, const std::string& key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string("absent") : found->second;
  };
  std::map<std::string, std::string> all = old_values;
  all.insert(new_values.begin(), new_values.end());
  std::string text;
  size_t count = 0;
  for (const auto& [key, ignored] : all) {
    if (value(old_values, key) == value(new_values, key)) continue;
    if (++count > 3) return text + ", …";
    text += concat(text.empty() ? "" : ", ", key, " was ", value(old_values, key), " and is ",
                   value(new_values, key));
  }
  return text.empty() ? "a file that it names has other contents" : text;
}

// Why the folders that have a new cell's variant and seed in their names do not count.
std::string why_anew(const Cell& cell, const std::vector<Stored>& stored) {
  const std::string start = cell.name.substr(0, cell.name.rfind('-', cell.name.rfind('-') - 1) + 1);
  const Stored *same = nullptr, *other = nullptr;
  for (const Stored& one : stored) {
    if (same_run(one, cell) && one.ending == Ending::kDamaged)
      return concat("summary.json or metrics.jsonl of ", one.folder.filename().string(),
                    " cannot be read or lacks rounds; that folder is kept as it is");
    if (same_run(one, cell)) same = &one;
    if (one.folder.filename().string().starts_with(start)) other = &one;
  }
  if (same != nullptr) {
    return concat("run by another build (", same->version.empty() ? "unknown" : same->version,
                  "), whose sources or compiler differ",
                  same->ending == Ending::kFinished ? "; --any-build takes it as it is" : "");
  }
  return other == nullptr ? "" : difference(other->config, cell.config);
}

}  // namespace

std::string identity_of(const Json& resolved, const fs::path& inputs) {
  Json tree = resolved;
  tree.erase("version");
  tree.erase("build");
  for (const run::InputFile& input : run::input_files(run::read_run_config(resolved))) {
    const fs::path kept = inputs / input.key;
    const bool copied = !inputs.empty() && fs::exists(kept);
    set_config_value(tree,
                     {input.key, "sha256:" + sha256_hex(read_file(copied ? kept : input.path))});
  }
  return hash(tree.dump());
}

std::vector<Cell> cells_of(const Study& study, std::string_view build) {
  std::vector<Cell> cells;
  for (const int64_t seed : study.seeds) {
    for (size_t v = 0; v < study.variants.size(); ++v) {
      const Variant& variant = study.variants[v];
      Cell cell;
      const run::RunConfig config = run::read_run_config(variant_config(study, variant, seed));
      cell.seed = seed;
      cell.config = config.resolved;
      cell.rounds = static_cast<uint64_t>(config.run.rounds);
      try {
        cell.identity = identity_of(cell.config);
      } catch (const Error& error) {
        fail("study", "variant '", variant.name, "': ", error.what(),
             "; --only NAME runs other variants without it");
      }
      const auto same = std::find_if(cells.begin(), cells.end(), [&](const Cell& other) {
        return other.identity == cell.identity;
      });
      if (same != cells.end()) {
        same->variants.push_back(v);
        continue;
      }
      cell.variants = {v};
      cell.name = concat(slug(variant.name), "-seed", seed, "-", cell.identity.substr(0, 10), "-",
                         build.substr(0, 6));
      cell.label = concat(variant.name, ", seed ", seed);
      cells.push_back(std::move(cell));
    }
  }
  return cells;
}

Shard parse_shard(const std::string& text) {
  Shard shard;
  const size_t slash = text.find('/');
  const auto number = [](std::string_view digits, size_t& out) {
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
    return status == std::errc() && end == digits.data() + digits.size();
  };
  const std::string_view view = text;
  if (slash == std::string::npos || !number(view.substr(0, slash), shard.index) ||
      !number(view.substr(slash + 1), shard.count) || shard.index < 1 ||
      shard.index > shard.count) {
    fail("study", "expected --shard i/n with 1 ≤ i ≤ n, got '", text, "'");
  }
  return shard;
}

bool belongs(size_t cell, const Shard& shard) { return cell % shard.count + 1 == shard.index; }

Progress progress_of(const fs::path& run) {
  Progress progress;
  try {
    const auto lines = report::RunFolder::open(run).metrics();
    progress.rounds = lines.size();
    if (!lines.empty())
      progress.wall_seconds = report::number_in(lines.back(), "wall_seconds").value_or(0);
  } catch (const Error&) {
    // Not there yet, or half of a line: the next look will tell.
  }
  return progress;
}

std::vector<Found> find_cells(const std::vector<Cell>& cells, const fs::path& study,
                              std::string_view build, bool any_build) {
  const std::vector<Stored> stored = read_folder(study / "cells");
  std::vector<Found> found;
  for (const Cell& cell : cells) {
    Found& one = found.emplace_back();
    one.folder = study / "cells" / cell.name;
    const Stored* chosen = nullptr;
    for (const Stored& candidate : stored) {
      if (!same_run(candidate, cell) || candidate.ending == Ending::kDamaged) continue;
      const bool ours = candidate.build == build;
      if (!ours && !(any_build && candidate.ending == Ending::kFinished)) continue;
      if (chosen == nullptr || (ours && chosen->build != build)) chosen = &candidate;
    }
    if (chosen == nullptr) {
      one.why = why_anew(cell, stored);
      // A run that somebody went on with otherwise keeps its folder.
      for (int i = 2; report::RunFolder::is_run(one.folder); ++i)
        one.folder = study / "cells" / concat(cell.name, "-", i);
      continue;
    }
    one.folder = chosen->folder;
    one.version = chosen->version;
    one.build = chosen->build;
    one.state = chosen->ending == Ending::kFinished ? CellState::kDone : CellState::kBegun;
    const Progress progress = progress_of(chosen->folder);
    one.rounds_done = progress.rounds;
    one.wall_seconds = progress.wall_seconds;
  }
  return found;
}

}  // namespace espalier::study
