#include "espalier/data/leaf.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/data/tensor_dataset.h"

namespace espalier::data {

namespace fs = std::filesystem;

namespace {

// Receives the parser's events. The parser itself keeps one bit per level of nesting, and nothing
// valid here is deeper than five levels, so that hostile nesting ends at once.
class LeafHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  LeafHandler(std::string_view where, LeafUsers& users, Dataset& dataset)
      : where_(where), users_(users), dataset_(dataset) {}

  bool null() override { return value_of_wrong_type("null"); }
  bool boolean(bool) override { return value_of_wrong_type("true or false"); }
  bool binary(binary_t&) override { return value_of_wrong_type("binary"); }
  bool number_integer(number_integer_t value) override {
    return number(static_cast<double>(value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    return number(static_cast<double>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return number(value); }
  bool string(string_t& value) override;
  bool key(string_t& name) override;
  bool start_object(size_t) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail(where_, "this is not valid JSON (near byte ", position, "); the file may be truncated");
  }

  // After the last event.
  void finish();

 private:
  enum class Section { kNone, kUsers, kCounts, kData, kIgnored };
  // Depths inside user_data: 2 is the object of users, 3 one user's object, 4 the list x or y, 5
  // one sample of x.
  bool in_samples() const {
    return section_ == Section::kData && depth_ == 4 && (field_ == 'x' || field_ == 'y');
  }
  bool in_image() const { return section_ == Section::kData && depth_ == 5 && field_ == 'x'; }
  bool ignored() const {
    return section_ == Section::kIgnored ||
           (section_ == Section::kData && depth_ >= 3 && field_ == '?');
  }

  bool number(double value);
  bool value_of_wrong_type(std::string_view type);
  void become(Kind kind);
  void append_text(const std::string& text);
  void end_user();
  // "user A, sample 3": of the field that is being read.
  std::string place() const {
    const size_t done = field_ == 'y' ? user_labels_ : user_inputs_;
    return concat("user ", user_, ", sample ", done);
  }
  [[noreturn]] void unexpected(std::string_view what) const {
    fail(where_, "expected users, num_samples and user_data as LEAF writes them, got ", what,
         user_.empty() ? std::string() : " (user " + user_ + ")");
  }

  std::string_view where_;
  LeafUsers& users_;
  Dataset& dataset_;
  size_t depth_ = 0;
  Section section_ = Section::kNone;
  std::string user_;
  char field_ = ' ';
  size_t image_values_ = 0;
  size_t user_inputs_ = 0, user_labels_ = 0;
  std::vector<std::string> listed_users_;
  std::vector<uint64_t> listed_counts_;
  std::map<std::string, uint64_t> found_;
};

bool LeafHandler::value_of_wrong_type(std::string_view type) {
  if (!ignored()) unexpected(type);
  return true;
}

bool LeafHandler::number(double value) {
  if (ignored()) return true;
  if (section_ == Section::kCounts && depth_ == 2) {
    if (!(value >= 0 && value < 1e9)) unexpected("an impossible number of samples");
    listed_counts_.push_back(static_cast<uint64_t>(value));
  } else if (in_image()) {
    if (!(value >= 0 && value <= 1))
      fail(where_, "expected pixels in [0, 1], got ", value, " (", place(), ", value ",
           image_values_, ")");
    if (++image_values_ > kLeafSide * kLeafSide) {
      fail(where_, "expected images of 784 values, got more (", place(), ")");
    }
    dataset_.pixels.push_back(static_cast<uint8_t>(std::lround(value * 255)));
  } else if (in_samples() && field_ == 'y') {
    become(Kind::kImage);
    if (!(value >= 0 && value < static_cast<double>(dataset_.num_classes)) ||
        value != std::floor(value)) {
      fail(where_, "expected labels in [0, ", dataset_.num_classes, "), got ", value, " (", place(),
           ")");
    }
    dataset_.labels.push_back(static_cast<int32_t>(value));
    ++user_labels_;
  } else {
    unexpected("a number out of place");
  }
  return true;
}

bool LeafHandler::string(string_t& value) {
  if (ignored()) return true;
  if (section_ == Section::kUsers && depth_ == 2) {
    listed_users_.push_back(value);
  } else if (in_samples()) {
    become(Kind::kTokens);
    append_text(value);
  } else {
    unexpected("a string out of place");
  }
  return true;
}

void LeafHandler::append_text(const std::string& text) {
  const bool input = field_ == 'x';
  const size_t expected = input ? kLeafSequence : 1;
  if (text.size() != expected) {
    fail(where_, "expected strings of ", expected, " characters in ", field_, ", got ", text.size(),
         " (", place(), ")");
  }
  for (size_t i = 0; i < text.size(); ++i) {
    const char character = text[i];
    const size_t token = kLeafCharacters.find(character);
    if (token == std::string_view::npos) {
      fail(where_, "expected LEAF's 80 characters, got the byte ",
           int{static_cast<uint8_t>(character)}, " in ", field_, " (", place(), ", character ", i,
           ")");
    }
    if (input) {
      dataset_.tokens.push_back(static_cast<int32_t>(token));
    } else {
      dataset_.labels.push_back(static_cast<int32_t>(token));
    }
  }
  ++(input ? user_inputs_ : user_labels_);
}

// Fixes what kind of data set this is, or checks it.
void LeafHandler::become(Kind kind) {
  if (dataset_.sample_shape.empty()) {
    dataset_.kind = kind;
    if (kind == Kind::kImage) {
      dataset_.sample_shape = {1, kLeafSide, kLeafSide};
      dataset_.num_classes = 62;
    } else {
      dataset_.sample_shape = {kLeafSequence};
      dataset_.num_classes = dataset_.vocabulary = kLeafCharacters.size();
    }
  }
  if (dataset_.kind != kind) unexpected("strings and numbers mixed in one data set");
}

bool LeafHandler::key(string_t& name) {
  if (depth_ == 1) {
    section_ = name == "users"         ? Section::kUsers
               : name == "num_samples" ? Section::kCounts
               : name == "user_data"   ? Section::kData
                                       : Section::kIgnored;
  } else if (section_ == Section::kData && depth_ == 2) {
    user_ = name;
  } else if (section_ == Section::kData && depth_ == 3) {
    field_ = name == "x" || name == "y" ? name[0] : '?';
  }
  return true;
}

bool LeafHandler::start_object(size_t) {
  if (++depth_ > 8) unexpected("too deep a nesting");
  if (ignored() || depth_ == 1) return true;
  if (section_ != Section::kData || depth_ > 3) unexpected("an object out of place");
  if (depth_ == 3) {
    field_ = ' ';
    user_inputs_ = user_labels_ = 0;
  }
  return true;
}

bool LeafHandler::end_object() {
  if (section_ == Section::kData && depth_ == 3) end_user();
  --depth_;
  if (depth_ == 1) section_ = Section::kNone;
  return true;
}

void LeafHandler::end_user() {
  if (user_inputs_ != user_labels_) {
    fail(where_, "expected a label for each of ", user_inputs_, " samples, got ", user_labels_,
         " (user ", user_, ")");
  }
  if (!found_.emplace(user_, user_inputs_).second) unexpected("a user twice");
  dataset_.client_of_sample.resize(dataset_.labels.size(), users_.number(user_));
  field_ = ' ';
  user_.clear();
}

bool LeafHandler::start_array(size_t) {
  if (++depth_ > 8) unexpected("too deep a nesting");
  if (ignored()) return true;
  if (in_image()) {
    become(Kind::kImage);
    image_values_ = 0;
    return true;
  }
  const bool list = (section_ == Section::kUsers || section_ == Section::kCounts) && depth_ == 2;
  if (!list && !in_samples()) unexpected("a list out of place");
  return true;
}

bool LeafHandler::end_array() {
  if (in_image()) {
    if (image_values_ != kLeafSide * kLeafSide) {
      fail(where_, "expected images of 784 values, got ", image_values_, " (", place(), ")");
    }
    ++user_inputs_;
  }
  --depth_;
  if (depth_ == 1) section_ = Section::kNone;
  return true;
}

void LeafHandler::finish() {
  if (listed_users_.size() != listed_counts_.size() || listed_users_.size() != found_.size()) {
    fail(where_, "expected users, num_samples and user_data of one length, got ",
         listed_users_.size(), ", ", listed_counts_.size(), " and ", found_.size());
  }
  for (size_t i = 0; i < listed_users_.size(); ++i) {
    const auto user = found_.find(listed_users_[i]);
    if (user == found_.end()) fail(where_, "the user ", listed_users_[i], " has no user_data");
    if (user->second != listed_counts_[i]) {
      fail(where_, "expected ", listed_counts_[i], " samples of the user ", listed_users_[i],
           ", got ", user->second);
    }
  }
}

Dataset read_folder(const fs::path& folder, LeafUsers& users) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (files.empty())
    fail("data/leaf", "expected *.json files in ", folder.string(), "; run LEAF's preprocess.sh");
  Dataset dataset;
  dataset.name = "leaf";
  for (const fs::path& file : files) append_leaf(read_file(file), file.string(), users, dataset);
  return dataset;
}

}  // namespace

uint32_t LeafUsers::number(const std::string& name) {
  const auto [entry, added] = index.try_emplace(name, static_cast<uint32_t>(names.size()));
  if (added) names.push_back(name);
  return entry->second;
}

void append_leaf(std::span<const uint8_t> json, std::string_view where, LeafUsers& users,
                 Dataset& dataset) {
  LeafHandler handler(where, users, dataset);
  nlohmann::json::sax_parse(json.begin(), json.end(), &handler);
  handler.finish();
}

LoadedData load_leaf(const DataOptions& options, Key) {
  const auto parts =
      find_data_files(options.name, options.root, {"train", "test"},
                      "run LEAF's preprocess.sh and set data.root to its data folder");
  LeafUsers users;
  LoadedData loaded;
  try {
    loaded.train = read_folder(parts[0], users);
    loaded.test = read_folder(parts[1], users);
  } catch (const fs::filesystem_error& error) {
    fail("data/leaf", error.what());
  }
  loaded.train.client_names = loaded.test.client_names = users.names;
  if (loaded.train.kind == Kind::kImage && !loaded.train.sample_shape.empty()) {
    if (options.normalize == "none")
      fail("data/leaf",
           "LEAF's images are given as values from 0 to 1, which data.normalize = \"unit\" keeps; "
           "\"none\" is for bytes");
    normalize_by_training_pixels(loaded.train, loaded.test);
  }
  loaded.folder = parts[0].parent_path();
  return loaded;
}

}  // namespace espalier::data
