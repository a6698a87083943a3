#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "espalier/base/bytes.h"
#include "espalier/base/file.h"
#include "espalier/base/file_writer.h"
#include "espalier/wire/message.h"

// What a client on a network keeps between processes, in one folder with one writer:
//
// - client.lock: held while a process uses the folder
// - session: who acted as this client last; run: the run that the folder belongs to
// - task, update: the task in progress and the last update, as far as they are here
// - states/: what the client remembers between rounds (client/state_store.h)
namespace espalier::join {

// A message's stream (wire::write_stream) in a file, behind two numbers that say what it is: read
// piece by piece, since it may be as large as the model.
class StoredStream {
 public:
  // Throws Error when the file cannot be read or is too short for the numbers.
  explicit StoredStream(const std::filesystem::path& file);
  uint64_t first() const { return first_; }
  uint64_t second() const { return second_; }
  uint64_t size() const;
  void read(uint64_t offset, std::span<uint8_t> out) const;
  // XXH3-64 of the stream.
  uint64_t digest() const;

 private:
  FileReader file_;
  uint64_t first_ = 0, second_ = 0;
};

class ClientFolder {
 public:
  // Makes it when it is missing. Throws Error that names the process which uses it already.
  explicit ClientFolder(std::filesystem::path path);

  std::filesystem::path states_path() const { return path_ / "states"; }

  // 16 bytes from the system's randomness, of this process; those of the one before, empty at
  // first.
  const std::string& session() const { return session_; }
  const std::string& previous_session() const { return previous_session_; }
  // What the server made of this session. One that it never took must not stand between the next
  // process and the one before: the server knows only that.
  void session_taken();
  void session_refused();

  // 0: none yet. Belonging to one is for good.
  uint64_t run() const { return run_; }
  void belong_to(uint64_t run);

  // How much of the task with this digest is here; of another one nothing.
  uint64_t begin_task(uint64_t digest, uint64_t size);
  void add_to_task(uint64_t offset, std::span<const std::span<const uint8_t>> data);
  // All of it, checked. nullopt when it is damaged; then nothing of it is here any more.
  std::optional<wire::EncodedMessage> task();

  // The answer to a task, which stays until that of another task is kept: whoever asks for it again
  // gets the same bytes. Null: there is none, or it is damaged.
  void keep_update(uint64_t task_digest, const wire::EncodedMessage& update);
  std::unique_ptr<const StoredStream> update_for(uint64_t task_digest) const;

 private:
  std::filesystem::path path_;
  std::optional<FileLock> lock_;
  std::optional<FileWriter> task_file_;  // while it arrives
  std::string session_, previous_session_;
  bool session_kept_ = true;  // whether the file has this one
  uint64_t run_ = 0, task_digest_ = 0, task_size_ = 0;
};

}  // namespace espalier::join
