#include "espalier/client/client_state.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/params/safetensors.h"

namespace espalier::client {

// A state is a safetensors file whose tensors are called "<set>/<role>/<name>", or "<blob>/b/": any
// tool can look into it.
Bytes encode_state(const ClientState& state) {
  std::vector<TensorData> tensors;
  for (const auto& [name, set] : state.sets) {
    for (const ParameterInfo& info : set.layout().tensors()) {
      const auto values = set.values(info);
      tensors.push_back({concat(name, "/", int{static_cast<uint8_t>(info.role)}, "/", info.name),
                         DType::kF32,
                         info.shape,
                         {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()}});
    }
  }
  for (const auto& [name, blob] : state.blobs) {
    tensors.push_back(
        {concat(name, "/b/"), DType::kU8, {static_cast<int64_t>(blob.size())}, {blob}});
  }
  Bytes bytes = write_safetensors(tensors, {});
  const uint32_t checksum = checksum32(bytes);
  ByteWriter(bytes).put(checksum);
  return bytes;
}

ClientState decode_state(std::span<const uint8_t> bytes, std::string_view where) {
  if (bytes.size() < 4) fail(where, "the client state is truncated");
  const auto content = bytes.first(bytes.size() - 4);
  uint32_t checksum;
  std::memcpy(&checksum, bytes.data() + content.size(), 4);
  if (checksum32(content) != checksum)
    fail(where, "the client state is damaged: its checksum does not match");
  const auto file = SafetensorsFile::parse(Bytes(content.begin(), content.end()), where);

  // The file's table is sorted by name; the order in the buffer is the layout's.
  std::vector<std::pair<std::string, const TensorView*>> ordered;
  for (const auto& [name, tensor] : file.tensors()) ordered.emplace_back(name, &tensor);
  std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.second->data.data(), a.second->data.size()) <
           std::make_pair(b.second->data.data(), b.second->data.size());
  });
  ClientState state;
  std::map<std::string, std::vector<std::pair<ParameterInfo, const TensorView*>>> sets;
  for (const auto& [name, tensor] : ordered) {
    if (name.ends_with("/b/") && tensor->dtype == DType::kU8) {
      state.blobs[name.substr(0, name.size() - 3)].assign(tensor->data.begin(), tensor->data.end());
      continue;
    }
    const size_t first = name.find('/');
    const size_t second = first == std::string::npos ? first : name.find('/', first + 1);
    if (second != first + 2 || name[first + 1] < '0' || name[first + 1] > '5')
      fail(where, "unexpected tensor '", name, "'");
    ParameterInfo info{name.substr(second + 1), tensor->shape,
                       static_cast<Role>(name[first + 1] - '0')};
    sets[name.substr(0, first)].emplace_back(std::move(info), tensor);
  }
  for (auto& [name, entries] : sets) {
    std::vector<ParameterInfo> infos;
    for (const auto& [info, tensor] : entries) infos.push_back(info);
    ParameterSet set(std::make_shared<ParameterLayout>(std::move(infos)));
    for (size_t i = 0; i < entries.size(); ++i) {
      const auto values = entries[i].second->as_float(where);
      std::copy(values.begin(), values.end(), set.values(set.layout().tensors()[i]).begin());
    }
    state.sets.emplace(name, std::move(set));
  }
  return state;
}

}  // namespace espalier::client
