#include "espalier/run/export_shards.h"

#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/params/safetensors.h"
#include "espalier/run/sources.h"

namespace espalier::run {

namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMostClients = 10'000;

template <class T>
std::span<const uint8_t> bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

// These samples as a file that data/tensor_dataset.h reads.
Bytes shard(const data::Dataset& dataset, std::span<const uint32_t> samples) {
  const size_t size = dataset.sample_size();
  std::vector<int64_t> shape = {static_cast<int64_t>(samples.size())};
  shape.insert(shape.end(), dataset.sample_shape.begin(), dataset.sample_shape.end());
  std::vector<int64_t> labels;
  for (const uint32_t sample : samples) labels.push_back(dataset.labels[sample]);
  std::vector<uint8_t> pixels;
  std::vector<float> floats;
  std::vector<int32_t> tokens;
  TensorData inputs{"inputs", DType::kF32, shape, {}};
  switch (dataset.kind) {
    case data::Kind::kImage: {
      // Channels come first in a file and last in memory.
      const auto channels = static_cast<size_t>(dataset.sample_shape[0]);
      const size_t plane = size / channels;
      pixels.resize(samples.size() * size);
      for (size_t i = 0; i < samples.size(); ++i) {
        const uint8_t* from = dataset.pixels.data() + samples[i] * size;
        uint8_t* to = pixels.data() + i * size;
        for (size_t pixel = 0; pixel < plane; ++pixel)
          for (size_t c = 0; c < channels; ++c) to[c * plane + pixel] = *from++;
      }
      inputs.dtype = DType::kU8;
      inputs.data = pixels;
      break;
    }
    case data::Kind::kFloat:
      for (const uint32_t sample : samples) {
        const float* from = dataset.floats.data() + sample * size;
        floats.insert(floats.end(), from, from + size);
      }
      inputs.data = bytes_of(floats);
      break;
    case data::Kind::kTokens:
      for (const uint32_t sample : samples) {
        const int32_t* from = dataset.tokens.data() + sample * size;
        tokens.insert(tokens.end(), from, from + size);
      }
      inputs.dtype = DType::kI32;
      inputs.data = bytes_of(tokens);
      break;
  }
  std::map<std::string, std::string> metadata = {
      {"num_classes", std::to_string(dataset.num_classes)}};
  if (dataset.kind == data::Kind::kTokens)
    metadata["vocabulary"] = std::to_string(dataset.vocabulary);
  const int64_t count = shape[0];
  const std::vector<TensorData> tensors = {inputs,
                                           {"labels", DType::kI64, {count}, bytes_of(labels)}};
  return write_safetensors(tensors, metadata);
}

}  // namespace

ExportedShards export_shards(const RunConfig& config, const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder, error) && !fs::is_empty(folder, error))
    fail("data/export", folder.string(), " is not empty; choose another --out");
  const data::DataSource data = load_data(config);
  const auto partition = divide(config, data);
  const uint64_t clients = partition->num_clients();
  if (clients > kMostClients)
    fail("data/export", "expected at most ", kMostClients, " clients, got ", clients,
         "; lower data.partition.clients");
  ExportedShards out;
  Json manifest = Json::array();
  std::vector<uint32_t> samples, tests;
  for (uint64_t client = 0; client < clients; ++client) {
    partition->samples(client, samples);
    tests.clear();
    for (uint64_t i = client; i < data.test->size(); i += clients)
      tests.push_back(static_cast<uint32_t>(i));
    const fs::path own = folder / concat("client-", client);
    make_folder(own);
    write_file_atomic(own / "train.safetensors", shard(*data.train, samples));
    if (!tests.empty()) write_file_atomic(own / "test.safetensors", shard(*data.test, tests));
    manifest.push_back(
        {{"client", client}, {"samples", samples.size()}, {"test_samples", tests.size()}});
    out.samples += samples.size();
    out.test_samples += tests.size();
  }
  out.clients = clients;
  write_text_file_atomic(folder / "manifest.json", Json{{"clients", manifest}}.dump(1) + "\n");
  return out;
}

}  // namespace espalier::run
