#include "espalier/train/rehearsal.h"

#include <algorithm>
#include <map>
#include <vector>

#include "espalier/base/detailed_error.h"

namespace espalier::train {
namespace {

constexpr size_t kMostNamed = 4;  // clients of a message
constexpr size_t kMostTried = 8;  // sizes of last batches that fail one after the other

// The clients that have a batch of some size.
struct Holders {
  uint64_t count = 0;
  std::vector<uint64_t> first;   // at most kMostNamed
  uint64_t fewest = UINT64_MAX;  // samples of the smallest of them
  uint64_t most = 0;

  void add(uint64_t client, uint64_t samples) {
    if (count++ < kMostNamed) first.push_back(client);
    fewest = std::min(fewest, samples);
    most = std::max(most, samples);
  }
};

std::string plural(uint64_t count, const char* what) {
  return concat(count, " ", what, count == 1 ? "" : "s");
}

// "clients 0, 1, 2, 3 and 96 more"
std::string names(const Holders& holders) {
  std::string text = holders.count == 1 ? "client " : "clients ";
  for (size_t i = 0; i < holders.first.size(); ++i) {
    const bool last = i + 1 == holders.first.size() && i > 0 && holders.count <= kMostNamed;
    text += concat(i == 0 ? "" : last ? " and " : ", ", holders.first[i]);
  }
  if (holders.count > kMostNamed) text += concat(" and ", holders.count - kMostNamed, " more");
  return text;
}

std::string samples_of(const Holders& holders) {
  if (holders.fewest == holders.most) return plural(holders.fewest, "sample");
  return concat(holders.fewest, " to ", holders.most, " samples");
}

// What a model says of a batch, without the place it says it at.
std::string reason(const std::string& message) {
  const size_t end = message.rfind("] ");
  const size_t colon = message.find(": ");
  if (colon != std::string::npos) return message.substr(colon + 2);
  return end == std::string::npos ? message : message.substr(end + 2);
}

class Trial {
 public:
  Trial(Trainer& trainer, const ParameterSet& weights, const Rehearsal& with)
      : trainer_(trainer), weights_(weights), with_(with) {}

  // One step on the last `size` samples of the client.
  void train(uint64_t client, uint64_t size) {
    std::vector<uint32_t> samples;
    with_.partition.samples(client, samples);
    StepOptions options = with_.options;
    options.epochs = options.max_steps = 1;
    options.batch_size = static_cast<int64_t>(size);
    options.drop_last = false;
    trainer_.load(weights_);
    trainer_.fit(*with_.data.train, std::span(samples).last(size), options, {}, Key(0));
    ParameterSet after;
    trainer_.store(after);
    for (const ParameterInfo& tensor : after.layout().tensors()) {
      if (all_finite(after.values(tensor)) || !all_finite(weights_.values(tensor))) continue;
      fail("train/model", "the model cannot train on a batch of ", plural(size, "sample"), ": '",
           tensor.name, "' is no longer finite after one step");
    }
  }

  void evaluate(size_t begin, size_t size) {
    trainer_.load(weights_);
    std::vector<uint32_t> samples(size);
    for (size_t i = 0; i < size; ++i) samples[i] = static_cast<uint32_t>(begin + i);
    trainer_.evaluate(*with_.data.test, samples);
  }

 private:
  Trainer& trainer_;
  const ParameterSet& weights_;
  const Rehearsal& with_;
};

[[noreturn]] void fail_with(const Error& cause, const std::string& message) {
  const auto* detailed = dynamic_cast<const DetailedError*>(&cause);
  throw DetailedError(message, detailed == nullptr ? "" : detailed->detail());
}

// The sizes of the last batches that clients have and that fail, beginning with the smallest.
void try_last_batches(Trial& trial, const std::map<uint64_t, Holders>& sizes, uint64_t batch) {
  Holders failing;
  std::string sizes_text, why;
  std::unique_ptr<Error> first;
  size_t tried = 0;
  for (const auto& [size, holders] : sizes) {
    if (size == batch || tried == kMostTried) break;
    try {
      trial.train(holders.first.front(), size);
      break;
    } catch (const DetailedError& error) {
      if (first == nullptr) first = std::make_unique<DetailedError>(error);
    } catch (const Error& error) {
      if (first == nullptr) first = std::make_unique<Error>(error);
    }
    ++tried;
    sizes_text += concat(sizes_text.empty() ? "" : ", ", size);
    for (const uint64_t client : holders.first) {
      if (failing.first.size() < kMostNamed) failing.first.push_back(client);
    }
    failing.count += holders.count;
    failing.fewest = std::min(failing.fewest, holders.fewest);
    failing.most = std::max(failing.most, holders.most);
  }
  if (first == nullptr) return;
  const bool only_batch = failing.fewest < batch;
  fail_with(*first, concat("[train/model] the model trains on batches of ", batch,
                           ", but not on a last batch of ", sizes_text,
                           sizes_text == "1" ? " sample" : " samples", ", which ", names(failing),
                           failing.count == 1 ? " has" : " have", " (", samples_of(failing),
                           "): ", reason(first->what()), "; ",
                           only_batch ? "give every client at least a whole batch (data.partition, "
                                        "train.batch_size) and set train.drop_last = true"
                                      : "set train.drop_last = true or another train.batch_size"));
}

}  // namespace

void check_batches(const data::Partition& partition, const StepOptions& options) {
  if (!options.drop_last) return;
  Holders without;
  for (uint64_t client = 0; client < partition.num_clients(); ++client) {
    const uint64_t samples = partition.num_samples(client);
    if (samples < static_cast<uint64_t>(options.batch_size)) without.add(client, samples);
  }
  if (without.count == 0) return;
  fail("train/batches", "train.drop_last leaves ", names(without), " without any batch of ",
       options.batch_size, " (", samples_of(without), "); lower train.batch_size to ",
       std::max<uint64_t>(1, without.fewest),
       ", give every client more samples (data.partition), or set ", "train.drop_last = false");
}

void rehearse(Trainer& trainer, const ParameterSet& weights, const Rehearsal& with) {
  if (!trainer.opaque()) return;
  const auto batch = static_cast<uint64_t>(with.options.batch_size);
  std::map<uint64_t, Holders> sizes;
  for (uint64_t client = 0; client < with.partition.num_clients(); ++client) {
    const uint64_t samples = with.partition.num_samples(client);
    if (samples >= batch) sizes[batch].add(client, samples);
    const uint64_t rest = samples % batch;
    if (rest > 0 && !with.options.drop_last) sizes[rest].add(client, samples);
  }
  if (sizes.empty()) return;
  Trial trial(trainer, weights, with);
  const uint64_t largest = sizes.rbegin()->first;
  trial.train(sizes.rbegin()->second.first.front(), largest);
  sizes.erase(std::prev(sizes.end()));
  try_last_batches(trial, sizes, largest);

  const size_t count = with.data.test->size(), whole = std::min(count, with.eval_batch);
  if (count == 0) return;
  trial.evaluate(0, whole);
  const size_t rest = count % whole;
  if (rest == 0) return;
  try {
    trial.evaluate(count - rest, rest);
  } catch (const Error& error) {
    fail_with(error, concat("[train/model] the model evaluates batches of ", whole,
                            ", but not the last one of ", plural(rest, "test sample"), ": ",
                            reason(error.what()), "; set another eval_batch"));
  }
}

}  // namespace espalier::train
