#include "espalier/join/client_folder.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "espalier/base/error.h"
#include "espalier/rpc/messages.h"

namespace espalier::join {

namespace fs = std::filesystem;

namespace {

constexpr const char* kWhere = "join";
constexpr size_t kHead = 16;  // of task and update: two numbers

std::string random_bytes(size_t size) {
  std::string bytes(size, '\0');
  if (::getrandom(bytes.data(), size, 0) != static_cast<ssize_t>(size))
    fail(kWhere, "the system gives no randomness: ", std::strerror(errno));
  return bytes;
}

void write_at(const fs::path& file, uint64_t offset, std::span<const uint8_t> data) {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0)
    throw StorageError(concat("[join] cannot write ", file.string(), ": ", std::strerror(errno)));
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t count = ::pwrite(descriptor, data.data() + done, data.size() - done,
                                   static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int error = errno;
      ::close(descriptor);
      throw StorageError(concat("[join] cannot write ", file.string(), ": ", std::strerror(error)));
    }
    done += static_cast<size_t>(count);
  }
  ::close(descriptor);
}

}  // namespace

ClientFolder::ClientFolder(fs::path path) : path_(std::move(path)) {
  make_folder(path_);
  std::string holder;
  lock_ = FileLock::try_take(path_ / "client.lock", holder);
  if (!lock_)
    fail(kWhere, path_.string(), " is used by ", holder, "; stop it, or use another --folder");
  const fs::path session = path_ / "session";
  if (fs::exists(session)) previous_session_ = read_text_file(session);
  constexpr size_t kSession = 16;
  if (previous_session_.size() != kSession) previous_session_.clear();
  session_ = random_bytes(kSession);
  write_text_file_atomic(session, session_);
  if (fs::exists(path_ / "run")) {
    const Bytes bytes = read_file(path_ / "run");
    ByteReader in(bytes, (path_ / "run").string());
    run_ = in.get<uint64_t>();
  }
}

void ClientFolder::belong_to(uint64_t run) {
  if (run == run_) return;
  if (run_ != 0) fail(kWhere, path_.string(), " belongs to another run; use another --folder");
  Bytes bytes;
  ByteWriter(bytes).put(run);
  write_file_atomic(path_ / "run", bytes);
  run_ = run;
}

// The file begins with digest and size, so that a later process knows what it is a part of.
uint64_t ClientFolder::begin_task(uint64_t digest, uint64_t size) {
  const fs::path file = path_ / "task";
  task_digest_ = digest;
  task_size_ = size;
  Bytes head;
  ByteWriter out(head);
  out.put(digest);
  out.put(size);
  std::error_code error;
  const uint64_t there = fs::file_size(file, error);
  if (!error && there >= kHead && there - kHead <= size) {
    Bytes before(kHead);
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    const bool read =
        descriptor >= 0 && ::read(descriptor, before.data(), kHead) == static_cast<ssize_t>(kHead);
    if (descriptor >= 0) ::close(descriptor);
    if (read && before == head) return there - kHead;
  }
  fs::remove(file, error);
  write_at(file, 0, head);
  return 0;
}

void ClientFolder::add_to_task(uint64_t offset, std::span<const uint8_t> data) {
  if (data.size() > task_size_ - std::min(task_size_, offset))
    fail(kWhere, "the server sends more than the ", task_size_, " bytes that it has said");
  write_at(path_ / "task", kHead + offset, data);
}

Bytes ClientFolder::task() {
  Bytes bytes = read_file(path_ / "task");
  bytes.erase(bytes.begin(),
              bytes.begin() + static_cast<std::ptrdiff_t>(std::min(kHead, bytes.size())));
  if (bytes.size() != task_size_ || rpc::digest64(bytes) != task_digest_) {
    std::error_code ignored;
    fs::remove(path_ / "task", ignored);
    fail(kWhere, "the task arrived damaged");
  }
  return bytes;
}

void ClientFolder::keep_update(uint64_t task_digest, const Bytes& update) {
  Bytes bytes;
  bytes.reserve(kHead + update.size());
  ByteWriter out(bytes);
  out.put(task_digest);
  out.put(rpc::digest64(update));
  out.bytes(update);
  try {
    write_file_atomic(path_ / "update", bytes);
  } catch (const Error& error) {
    throw StorageError(error.what());
  }
}

std::optional<Bytes> ClientFolder::update_for(uint64_t task_digest) const {
  if (!fs::exists(path_ / "update")) return std::nullopt;
  Bytes bytes = read_file(path_ / "update");
  if (bytes.size() < kHead) return std::nullopt;
  ByteReader in(bytes, "update");
  const auto task = in.get<uint64_t>(), digest = in.get<uint64_t>();
  if (task != task_digest) return std::nullopt;
  Bytes update(bytes.begin() + static_cast<std::ptrdiff_t>(kHead), bytes.end());
  if (rpc::digest64(update) != digest) return std::nullopt;
  return update;
}

}  // namespace espalier::join
