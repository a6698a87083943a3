#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

// Who takes part in a run, and what each has stated of its data. A statement is on disk before it
// counts and stays for the run: sums are scaled by it (params/exact_sum.h).
namespace espalier::serve {

struct Enrolment {
  uint64_t num_samples = 0, num_test_samples = 0, fingerprint = 0;
  std::string device;
  friend bool operator==(const Enrolment&, const Enrolment&) = default;
};

// Thread-safe. registry.jsonl has a line per client: {"client", "samples", "test_samples",
// "fingerprint", "device"}.
class Registry {
 public:
  // For clients 0 … num_clients − 1; reads what the file has. Throws Error when it is damaged in
  // the middle (a half line at the end is that of a crash and goes).
  Registry(std::filesystem::path file, uint64_t num_clients);

  // Takes a client in, or does nothing when it is there and states the same. Throws Error, in words
  // for the client, for another statement or an id that the run does not have; StorageError when
  // the file cannot be written. A process that is killed loses nothing; for a power failure see
  // below.
  void enrol(uint64_t client, const Enrolment& enrolment);
  // Everybody who is enrolled will be: to be called before a round relies on it. Throws
  // StorageError.
  void make_durable();
  bool contains(uint64_t client) const;
  // 0 for who is not enrolled.
  uint64_t num_samples(uint64_t client) const;
  uint64_t num_clients() const { return num_clients_; }
  size_t size() const;
  // Everybody who is enrolled, ascending.
  std::vector<uint64_t> clients() const;
  // Up to `most` of those who are not enrolled, ascending.
  std::vector<uint64_t> missing(size_t most) const;

 private:
  std::filesystem::path file_;
  uint64_t num_clients_;
  mutable std::mutex mutex_;
  std::map<uint64_t, Enrolment> clients_;
  bool dirty_ = false;  // lines are written, but not synced
};

}  // namespace espalier::serve
