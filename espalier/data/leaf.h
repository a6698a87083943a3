#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "espalier/data/load.h"

// Data sets in LEAF's JSON (Caldas et al., "LEAF: a benchmark for federated settings", 2018):
// folders train/ and test/ with
// *.json files, each an object with `users`, `num_samples` and `user_data`: user → {x, y}. Two of
// its data sets are read:
//   FEMNIST      x: 28×28 numbers in [0, 1]; y: a class in [0, 62). Stored as uint8 images.
//   Shakespeare  x: strings of 80 characters; y: the next character. Stored as tokens of LEAF's 80
//   characters.
// Which of the two is told by the data. Every user is a natural client. Files are parsed as a
// stream: what is held beside the file's text is the data set itself.
namespace espalier::data {

inline constexpr size_t kLeafSequence = 80;
inline constexpr size_t kLeafSide = 28;
// The characters of LEAF's Shakespeare; a token is a character's place here.
inline constexpr std::string_view kLeafCharacters =
    "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}";

// Users get their number when they are first met; training and test files share one register.
struct LeafUsers {
  std::map<std::string, uint32_t, std::less<>> index;
  std::vector<std::string> names;
  uint32_t number(const std::string& name);
};

// Appends one file's samples to `dataset`, which is empty (its kind then follows from the first
// sample) or of the same kind. Throws Error (prefixed with `where`) for anything that is not as
// described above; `dataset` is then unspecified.
void append_leaf(std::span<const uint8_t> json, std::string_view where, LeafUsers& users,
                 Dataset& dataset);

LoadedData load_leaf(const DataOptions& options, Key key);

}  // namespace espalier::data
