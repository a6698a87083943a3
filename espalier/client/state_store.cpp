#include "espalier/client/state_store.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/file.h"

namespace espalier::client {

std::filesystem::path StateStore::path(uint64_t client, uint32_t version) const {
  return folder_ / concat(client, "-", version, ".state");
}

std::shared_ptr<const ClientState> StateStore::get(uint64_t client, uint32_t version) {
  const std::lock_guard lock(mutex_);
  Versions& versions = clients_[client];
  auto at = versions.find(version);
  if (at == versions.end() || !at->second.state) {
    Entry loaded = read(client, version);
    // What this process did not write was named by the checkpoint it resumed from.
    loaded.committed = at == versions.end() || at->second.committed;
    memory_bytes_ += loaded.bytes;
    at = versions.insert_or_assign(version, std::move(loaded)).first;
  }
  at->second.last_used = ++clock_;
  const auto state = at->second.state;
  shrink();
  return state;
}

StateStore::Entry StateStore::read(uint64_t client, uint32_t version) const {
  const auto file = path(client, version);
  try {
    const Bytes bytes = read_file(file);
    Entry entry;
    entry.state = std::make_shared<ClientState>(decode_state(bytes, file.string()));
    entry.bytes = bytes.size();
    entry.on_disk = true;
    return entry;
  } catch (const Error& error) {
    throw StorageError(
        concat("[client/state] the state of client ", client, " of round ", version,
               " cannot be read; start the run again in a new folder: ", error.what()));
  }
}

void StateStore::put(uint64_t client, uint32_t round, uint32_t base, ClientState state) {
  uint64_t bytes = 0;
  for (const auto& [name, set] : state.sets) bytes += set.size() * sizeof(float);
  for (const auto& [name, blob] : state.blobs) bytes += blob.size();
  const std::lock_guard lock(mutex_);
  Versions& versions = clients_[client];
  for (auto entry = versions.begin(); entry != versions.end();) {
    const auto current = entry++;
    if (current->first != base && !current->second.committed) drop(client, versions, current);
  }
  versions[round] = {std::make_shared<ClientState>(std::move(state)), bytes, false, false,
                     ++clock_};
  memory_bytes_ += bytes;
  shrink();
}

void StateStore::save(uint64_t client, uint32_t version, Entry& entry) {
  try {
    make_folder(folder_);
    write_file_atomic(path(client, version), encode_state(*entry.state));
  } catch (const Error& error) {
    throw StorageError(error.what());
  }
  entry.on_disk = true;
}

void StateStore::drop(uint64_t client, Versions& versions, Versions::iterator entry) {
  if (entry->second.state) memory_bytes_ -= entry->second.bytes;
  std::error_code ignored;  // a file that stays does no harm
  if (entry->second.on_disk) std::filesystem::remove(path(client, entry->first), ignored);
  versions.erase(entry);
}

void StateStore::make_durable() {
  if (folder_.empty()) return;
  const std::lock_guard lock(mutex_);
  for (auto& [client, versions] : clients_) {
    for (auto& [version, entry] : versions) {
      if (!entry.on_disk) save(client, version, entry);
    }
  }
}

void StateStore::commit(uint64_t client, uint32_t version) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found == clients_.end()) return;
  for (auto entry = found->second.begin(); entry != found->second.end();) {
    const auto current = entry++;
    if (current->first < version) {
      drop(client, found->second, current);
    } else if (current->first == version) {
      current->second.committed = true;
    }
  }
}

void StateStore::keep_only(const std::map<uint64_t, uint32_t>& versions) {
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(folder_, ignored)) {
    bool named = false;
    const std::string name = file.path().stem().string();
    if (const size_t dash = name.find('-'); dash != std::string::npos) {
      const auto found = versions.find(std::strtoull(name.c_str(), nullptr, 10));
      named = file.path().extension() == ".state" && found != versions.end() &&
              std::strtoull(name.c_str() + dash + 1, nullptr, 10) == found->second;
    }
    if (!named) std::filesystem::remove(file.path(), ignored);
  }
}

void StateStore::adopt() {
  const std::lock_guard lock(mutex_);
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(folder_, ignored)) {
    const std::string name = file.path().stem().string();
    const size_t dash = name.find('-');
    if (dash == std::string::npos || file.path().extension() != ".state") continue;
    const uint64_t client = std::strtoull(name.c_str(), nullptr, 10);
    const auto version = static_cast<uint32_t>(std::strtoul(name.c_str() + dash + 1, nullptr, 10));
    if (file.path() != path(client, version)) continue;  // no name of ours
    Entry& entry = clients_[client][version];
    entry.on_disk = true;
  }
}

std::vector<uint32_t> StateStore::versions(uint64_t client) const {
  const std::lock_guard lock(mutex_);
  std::vector<uint32_t> out;
  if (const auto found = clients_.find(client); found != clients_.end())
    for (const auto& [version, entry] : found->second) out.push_back(version);
  return out;
}

uint64_t StateStore::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  return memory_bytes_;
}

// Moves the least recently used states to disk until the limit holds.
void StateStore::shrink() {
  if (folder_.empty() || memory_bytes_ <= memory_limit_bytes_) return;
  std::vector<std::pair<uint64_t, std::pair<uint64_t, uint32_t>>> by_use;
  for (auto& [client, versions] : clients_) {
    for (auto& [version, entry] : versions) {
      if (entry.state) by_use.push_back({entry.last_used, {client, version}});
    }
  }
  std::sort(by_use.begin(), by_use.end());
  for (const auto& [used, id] : by_use) {
    if (memory_bytes_ <= memory_limit_bytes_) break;
    Entry& entry = clients_[id.first][id.second];
    if (!entry.on_disk) save(id.first, id.second, entry);
    entry.state.reset();
    memory_bytes_ -= entry.bytes;
  }
}

}  // namespace espalier::client
