#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "espalier/base/bytes.h"
#include "espalier/base/file.h"

// What a client on a network keeps between processes, in one folder with one writer:
//
// - client.lock: held while a process uses the folder
// - session: who acted as this client last; run: the run that the folder belongs to
// - task, update: the task in progress and the last update, as far as they are here
// - states/: what the client remembers between rounds (client/state_store.h)
namespace espalier::join {

class ClientFolder {
 public:
  // Makes it when it is missing. Throws Error that names the process which uses it already.
  explicit ClientFolder(std::filesystem::path path);

  std::filesystem::path states_path() const { return path_ / "states"; }

  // 16 bytes from the system's randomness, of this process; those of the one before, empty at
  // first.
  const std::string& session() const { return session_; }
  const std::string& previous_session() const { return previous_session_; }

  // 0: none yet. Belonging to one is for good.
  uint64_t run() const { return run_; }
  void belong_to(uint64_t run);

  // How much of the task with this digest is here; of another one nothing.
  uint64_t begin_task(uint64_t digest, uint64_t size);
  void add_to_task(uint64_t offset, std::span<const uint8_t> data);
  // All of it, checked. Throws Error when it is damaged; then nothing of it is here any more.
  Bytes task();

  // The answer to a task, which stays until that of another task is kept: whoever asks for it again
  // gets the same bytes.
  void keep_update(uint64_t task_digest, const Bytes& update);
  std::optional<Bytes> update_for(uint64_t task_digest) const;

 private:
  std::filesystem::path path_;
  std::optional<FileLock> lock_;
  std::string session_, previous_session_;
  uint64_t run_ = 0, task_digest_ = 0, task_size_ = 0;
};

}  // namespace espalier::join
