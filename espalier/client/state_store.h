#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "espalier/client/client_state.h"

namespace espalier::client {

// The states of simulated clients: in memory up to a limit, on disk beyond it. A client that was
// never selected costs nothing.
//
// With a folder, make_durable() writes what changed since the last checkpoint, so that a resumed
// run finds it. The version that the last written checkpoint names is kept until the next one is
// written. Failures of the storage are StorageErrors.
class StateStore : public ClientStateStore {
 public:
  // `memory_limit_bytes` counts the values. Without a folder everything stays in memory, whatever
  // the limit.
  explicit StateStore(uint64_t memory_limit_bytes) : memory_limit_bytes_(memory_limit_bytes) {}
  // Made when it is needed. Before anything is put.
  void set_folder(std::filesystem::path folder) { folder_ = std::move(folder); }

  std::shared_ptr<const ClientState> get(uint64_t client, uint32_t version) override;
  void put(uint64_t client, uint32_t round, uint32_t base, ClientState state) override;
  // Everything put so far survives a crash from here on.
  void make_durable();
  // The checkpoint that names `version` for `client` is written: older versions of it may go.
  void commit(uint64_t client, uint32_t version);

  // What a process before this one has left in the folder: its versions count as kept here. Before
  // anything else.
  void adopt();
  // The versions that there are of a client, ascending.
  std::vector<uint32_t> versions(uint64_t client) const;

  // After a resume: deletes the files of rounds that the checkpoint does not name.
  void keep_only(const std::map<uint64_t, uint32_t>& versions);

  uint64_t memory_bytes() const;

 private:
  struct Entry {
    std::shared_ptr<const ClientState> state;  // null: on disk only
    uint64_t bytes = 0;
    bool on_disk = false;
    bool committed = false;  // the last written checkpoint names it
    uint64_t last_used = 0;
  };
  using Versions = std::map<uint32_t, Entry>;
  std::filesystem::path path(uint64_t client, uint32_t version) const;
  Entry read(uint64_t client, uint32_t version) const;
  void save(uint64_t client, uint32_t version, Entry& entry);
  void drop(uint64_t client, Versions& versions, Versions::iterator entry);
  void shrink();

  std::filesystem::path folder_;
  uint64_t memory_limit_bytes_;
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, Versions> clients_;
  uint64_t memory_bytes_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace espalier::client
