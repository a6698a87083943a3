#include "espalier/join/client_folder.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "espalier/base/digest.h"
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

void ClientFolder::session_taken() {
  if (!session_kept_) write_text_file_atomic(path_ / "session", session_);
  session_kept_ = true;
}

void ClientFolder::session_refused() {
  write_text_file_atomic(path_ / "session", previous_session_);
  session_kept_ = false;
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
  task_file_.reset();
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
  const std::span<const uint8_t> begin = head;
  FileWriter(file, true).write(0, std::span(&begin, 1));
  return 0;
}

void ClientFolder::add_to_task(uint64_t offset, std::span<const std::span<const uint8_t>> data) {
  uint64_t size = 0;
  for (const auto piece : data) size += piece.size();
  if (size > task_size_ - std::min(task_size_, offset))
    fail(kWhere, "the server sends more than the ", task_size_, " bytes that it has said");
  if (!task_file_) task_file_.emplace(path_ / "task", false);
  task_file_->write(kHead + offset, data);
}

std::optional<wire::EncodedMessage> ClientFolder::task() {
  task_file_.reset();
  const fs::path file = path_ / "task";
  {
    const StoredStream stored(file);
    if (stored.size() == task_size_ && stored.digest() == task_digest_) {
      return wire::read_stream(stored.size(), [&](uint64_t offset, std::span<uint8_t> out) {
        stored.read(offset, out);
      });
    }
  }
  std::error_code ignored;
  fs::remove(file, ignored);
  return std::nullopt;
}

void ClientFolder::keep_update(uint64_t task_digest, const wire::EncodedMessage& update) {
  Bytes bytes;
  bytes.reserve(kHead + update.size_bytes());
  ByteWriter out(bytes);
  out.put(task_digest);
  out.put(uint64_t{0});
  wire::write_stream(update, bytes);
  const uint64_t digest = digest64(std::span(bytes).subspan(kHead));
  std::memcpy(bytes.data() + sizeof(task_digest), &digest, sizeof(digest));
  try {
    write_file_atomic(path_ / "update", bytes);
  } catch (const Error& error) {
    throw StorageError(error.what());
  }
}

std::unique_ptr<const StoredStream> ClientFolder::update_for(uint64_t task_digest) const {
  if (!fs::exists(path_ / "update")) return nullptr;
  try {
    auto stored = std::make_unique<const StoredStream>(path_ / "update");
    if (stored->first() == task_digest && stored->second() == stored->digest()) return stored;
  } catch (const Error&) {
    // Too short: it is made anew.
  }
  return nullptr;
}

// ---------------------------------------------------------------- StoredStream

StoredStream::StoredStream(const fs::path& file) : file_(file) {
  Bytes head(kHead);
  file_.read(0, head);
  ByteReader in(head, kWhere);
  first_ = in.get<uint64_t>();
  second_ = in.get<uint64_t>();
}

uint64_t StoredStream::size() const { return file_.size() - kHead; }

void StoredStream::read(uint64_t offset, std::span<uint8_t> out) const {
  file_.read(kHead + offset, out);
}

uint64_t StoredStream::digest() const { return file_.digest(kHead); }

}  // namespace espalier::join
