#include "espalier/data/notes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "espalier/base/error.h"

namespace espalier::data {

namespace {

constexpr double kNearlyAll = 0.9;           // share of one class that is worth a word
constexpr size_t kExaminedValues = 1 << 14;  // that are looked at, of many
// Samples that are compared, of many: one for so many bytes, so that it costs a small part of
// reading them, within limits.
constexpr size_t kLeastTrain = 2048, kMostTrain = 8192, kBytesPerTrain = 1024;
constexpr size_t kRun = 32;  // samples that lie together; divides the limits
constexpr size_t kLeastTest = 512, kMostTest = 2048, kBytesPerTest = 2048;
constexpr size_t kWindow = 64, kWidest = 4096;  // bytes of a sample that are hashed
constexpr float kFarFromOne = 1000;

std::vector<uint64_t> class_counts(const Dataset& dataset) {
  std::vector<uint64_t> counts(static_cast<size_t>(dataset.num_classes), 0);
  for (const int32_t label : dataset.labels) ++counts[static_cast<size_t>(label)];
  return counts;
}

std::string percent(double share) {
  std::array<char, 16> text;
  std::snprintf(text.data(), text.size(), "%.1f%%", 100 * share);
  return text.data();
}

// Classes that `here` has and `elsewhere` lacks.
struct Missing {
  std::vector<int64_t> classes;
  uint64_t samples = 0;  // of `here`
};
Missing missing(const std::vector<uint64_t>& here, const std::vector<uint64_t>& elsewhere) {
  Missing found;
  for (size_t c = 0; c < here.size(); ++c) {
    if (here[c] == 0 || elsewhere[c] > 0) continue;
    found.classes.push_back(static_cast<int64_t>(c));
    found.samples += here[c];
  }
  return found;
}

void note_classes(const Dataset& train, const Dataset& test, std::vector<std::string>& notes) {
  const auto counts = class_counts(train), test_counts = class_counts(test);
  const auto most = std::max_element(counts.begin(), counts.end());
  const double share = static_cast<double>(*most) / static_cast<double>(train.size());
  if (*most == train.size()) {
    notes.push_back(concat("[data] all training samples are of class ", most - counts.begin(),
                           ": there is nothing to tell apart"));
  } else if (share >= kNearlyAll) {
    notes.push_back(concat("[data] ", percent(share), " of the training samples are of class ",
                           most - counts.begin(),
                           ": look at the balanced accuracy, which counts every class alike"));
  }
  if (const Missing found = missing(test_counts, counts); !found.classes.empty()) {
    notes.push_back(concat("[data] the training samples lack ",
                           class_list(found.classes, train.num_classes), ", which ", found.samples,
                           " of ", test.size(), " test samples are of: those cannot be learned"));
  }
  // A rare class may well be absent from a small test set.
  if (const Missing found = missing(counts, test_counts);
      100 * found.samples >= train.size() && !found.classes.empty()) {
    notes.push_back(concat("[data] the test samples lack ",
                           class_list(found.classes, train.num_classes), ", which ", found.samples,
                           " of ", train.size(),
                           " training samples are of: the accuracy says nothing about them"));
  }
}

// Of a sample {a, b, c}: whether c looks like the channels and a like the height.
bool looks_channels_last(const Dataset& dataset) {
  const auto& shape = dataset.sample_shape;
  return dataset.has_images() && (shape[2] == 1 || shape[2] == 3 || shape[2] == 4) &&
         shape[0] > 4 && shape[1] > 4;
}

void note_shape(const Dataset& train, std::vector<std::string>& notes) {
  if (!looks_channels_last(train)) return;
  const auto& shape = train.sample_shape;
  notes.push_back(concat("[data] samples of shape ", shape_text(shape), " are read as ", shape[0],
                         " channels of ", shape[1], "×", shape[2],
                         " pixels; if the channels come last, store inputs.transpose(0, 3, 1, 2)"));
}

void note_scale(const Dataset& train, std::vector<std::string>& notes) {
  if (train.kind != Kind::kFloat || train.floats.empty()) return;
  const size_t values = train.sample_size();
  const size_t samples = std::clamp<size_t>(kExaminedValues / values, 1, train.size());
  float low = train.floats[0], high = low;
  bool whole = true;
  for (size_t i = 0; i < samples; ++i) {
    const float* sample = train.floats.data() + i * train.size() / samples * values;
    for (size_t j = 0; j < values; ++j) {
      low = std::min(low, sample[j]);
      high = std::max(high, sample[j]);
      whole = whole && sample[j] == std::floor(sample[j]);
    }
  }
  const float largest = std::max(std::abs(low), std::abs(high));
  // Pixels: whole numbers up to 255 of many places, or an image of such a range.
  const bool pixels = low >= 0 && high <= 255 && (whole ? high > 127 : high > 32);
  if (pixels && (train.has_images() || (whole && values >= 64))) {
    notes.push_back(concat("[data] float inputs from ", low, " to ", high,
                           " look like pixels and are used as they are; divide them by 255, or "
                           "store uint8 (samples, channels, height, width), which is normalized"));
  } else if (largest > kFarFromOne) {
    notes.push_back(concat("[data] inputs reach ", low < -high ? low : high,
                           " and are used as they are; most nets want each column shifted and "
                           "scaled to about -3 to 3"));
  }
}

// The bytes of a data set's samples, whatever their kind.
struct SampleBytes {
  const uint8_t* data = nullptr;
  size_t size = 0;  // of one sample
  size_t samples = 0;
  const uint8_t* sample(size_t i) const { return data + i * size; }
  // Sample i of `count` that stand for all: short runs, evenly spread, since memory is read in
  // runs.
  const uint8_t* spread(size_t i, size_t count) const {
    if (count == samples) return sample(i);
    return sample(i / kRun * samples / (count / kRun) + i % kRun);
  }
};

SampleBytes bytes_of(const Dataset& dataset) {
  const size_t values = dataset.sample_size(), samples = dataset.size();
  switch (dataset.kind) {
    case Kind::kImage:
      return {dataset.pixels.data(), values, samples};
    case Kind::kFloat:
      return {reinterpret_cast<const uint8_t*>(dataset.floats.data()), values * sizeof(float),
              samples};
    case Kind::kTokens:
      return {reinterpret_cast<const uint8_t*>(dataset.tokens.data()), values * sizeof(int32_t),
              samples};
  }
  return {};
}

// How many of them are compared: all, or a multiple of kRun.
size_t compared(const SampleBytes& bytes, size_t bytes_per_sample, size_t least, size_t most) {
  const size_t wanted = std::clamp(bytes.samples * bytes.size / bytes_per_sample, least, most);
  return std::min(bytes.samples, wanted / kRun * kRun);
}

// A hash of `count` bytes from the middle of a sample: equal samples have equal ones.
uint64_t middle_hash(const uint8_t* sample, size_t size, size_t count) {
  const uint8_t* at = sample + (size - count) / 2;
  // A sum of products, which do not wait for each other.
  uint64_t hash = 0, factor = 0x9e3779b97f4a7c15u;
  const auto mix = [&](uint64_t word) {
    word = (word + factor) * 0xff51afd7ed558ccdu;
    hash += (word ^ (word >> 29)) * factor;
    factor += 0x632be59bd9b4e01au;  // stays odd
  };
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    uint64_t word;
    std::memcpy(&word, at + i, 8);
    mix(word);
  }
  for (; i < count; ++i) mix(at[i]);
  return hash ^ (hash >> 32);
}

void note_overlap(const Dataset& train, const Dataset& test, std::vector<std::string>& notes) {
  const Overlap overlap = find_overlap(train, test);
  if (overlap.found == 0) return;
  const auto tests = static_cast<double>(overlap.examined), n = static_cast<double>(train.size());
  const double likely = static_cast<double>(overlap.found) / overlap.seen;
  // Inputs of few values repeat without being copied. How often two samples are equal is seen among
  // the test samples; by_chance of them would then have an equal in training.
  const double equal = 2 * static_cast<double>(overlap.repeated) / (tests * tests);
  const double by_chance = tests * (1 - std::exp(-n * equal));
  if (100 * likely < tests || likely <= 1.5 * by_chance) return;
  notes.push_back(concat("[data] ", overlap.complete ? "" : "at least ", overlap.found, " of ",
                         overlap.examined, " test samples ", overlap.complete ? "" : "looked at ",
                         "are training samples as well: the accuracy is of what was learned by "
                         "heart, and too high"));
}

}  // namespace

std::string class_list(std::span<const int64_t> classes, int64_t num_classes) {
  constexpr size_t kShown = 5;
  if (classes.size() == 1) return concat("class ", classes[0]);
  std::string list;
  for (size_t i = 0; i < std::min(classes.size(), kShown); ++i) {
    const bool last = i + 1 == classes.size();
    list += concat(i == 0 ? "" : last ? " and " : ", ", classes[i]);
  }
  if (classes.size() <= kShown) return "classes " + list;
  return concat(classes.size(), " of ", num_classes, " classes (", list, ", …)");
}

Overlap find_overlap(const Dataset& train, const Dataset& test) {
  Overlap overlap;
  if (train.fetch || test.fetch) return overlap;
  const SampleBytes training = bytes_of(train), testing = bytes_of(test);
  const size_t tests = compared(testing, kBytesPerTest, kLeastTest, kMostTest),
               trains = compared(training, kBytesPerTrain, kLeastTrain, kMostTrain);
  overlap.examined = tests;
  overlap.complete = tests == test.size() && trains == train.size();
  overlap.seen = static_cast<double>(trains) / static_cast<double>(train.size());
  const auto test_sample = [&](size_t i) { return testing.spread(i, tests); };
  // A few bytes from the middle tell most samples apart; where they do not, all do.
  size_t window = std::min(testing.size, kWindow);
  constexpr size_t kSlots = 1 << 14;
  std::vector<uint64_t> hashes(tests);
  const auto hash_tests = [&] {  // returns about how many are different
    std::vector<uint8_t> taken(kSlots, 0);
    for (size_t i = 0; i < tests; ++i) {
      hashes[i] = middle_hash(test_sample(i), testing.size, window);
      taken[hashes[i] % kSlots] = 1;
    }
    return static_cast<size_t>(std::count(taken.begin(), taken.end(), 1));
  };
  if (2 * hash_tests() < tests && testing.size > window) {
    window = std::min(testing.size, kWidest);
    hash_tests();
  }
  // Chains of the test samples by their hash; nearly all training samples find an empty one.
  constexpr uint16_t kNone = UINT16_MAX;
  std::vector<uint16_t> first(kSlots, kNone), next(tests, kNone);
  std::vector<uint8_t> found(tests, 0);
  // Equal test samples are in a chain once; different ones with one hash are hardly ever many.
  constexpr int kMostSteps = 64;
  const auto find = [&](const uint8_t* sample, uint64_t hash) -> size_t {
    int steps = 0;
    for (uint16_t i = first[hash % kSlots]; i != kNone && steps < kMostSteps;
         i = next[i], ++steps) {
      if (hashes[i] == hash && std::memcmp(test_sample(i), sample, testing.size) == 0) return i;
    }
    return kNone;
  };
  std::vector<uint32_t> copies(tests, 1);
  for (size_t i = 0; i < tests; ++i) {
    if (const size_t same = find(test_sample(i), hashes[i]); same != kNone) {
      ++copies[same];
      ++overlap.repeated;
      continue;
    }
    next[i] = first[hashes[i] % kSlots];
    first[hashes[i] % kSlots] = static_cast<uint16_t>(i);
  }
  for (size_t i = 0; i < trains; ++i) {
    const uint8_t* sample = training.spread(i, trains);
    const size_t same = find(sample, middle_hash(sample, training.size, window));
    if (same == kNone || found[same] != 0) continue;
    found[same] = 1;
    overlap.found += copies[same];
  }
  return overlap;
}

void add_notes(const Dataset& train, const Dataset& test, std::vector<std::string>& notes) {
  note_classes(train, test, notes);
  note_shape(train, notes);
  note_scale(train, notes);
  note_overlap(train, test, notes);
}

}  // namespace espalier::data
