#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>

// Updates on disk: those on their way, where a broken upload goes on, and counted ones, kept until
// their round is in a checkpoint. A server that was killed counts these again without asking their
// clients, and so does one that repeats a round.
namespace espalier::serve {

// Thread-safe. Nothing is synced: what a power failure takes is asked for again, and what it leaves
// half written is known by its digest.
class Spool {
 public:
  // One client's update in one exchange.
  struct Id {
    uint32_t round = 0, exchange = 0;
    uint64_t client = 0;
    friend auto operator<=>(const Id&, const Id&) = default;
  };
  struct Kept {
    std::filesystem::path file;
    uint64_t task_digest = 0;  // of the task that it answers
    uint64_t digest = 0, bytes = 0;
  };

  // In two folders inside `folder`. What was on its way to an earlier process goes; what it kept is
  // here again. Keeps at most `max_bytes`: beyond that the oldest go.
  Spool(const std::filesystem::path& folder, uint64_t max_bytes);

  // Where the update of a client arrives.
  std::filesystem::path arriving(const Id& id) const;
  void discard(const Id& id);
  // It is counted: moves it to the kept ones. Whatever goes wrong loses no more than the saving.
  void keep(const Id& id, uint64_t task_digest, uint64_t digest);
  std::optional<Kept> kept(const Id& id) const;
  // A kept one that turned out to be no good.
  void drop(const Id& id);
  // What a client sent for later rounds counts no more.
  void forget_after(uint32_t round, uint64_t client);
  // These rounds are in a checkpoint.
  void forget_through(uint32_t round);
  uint64_t kept_bytes() const;

 private:
  void remove(std::map<Id, Kept>::iterator entry);

  std::filesystem::path arriving_, kept_;
  uint64_t max_bytes_;
  mutable std::mutex mutex_;
  std::map<Id, Kept> entries_;
  uint64_t bytes_ = 0;
};

}  // namespace espalier::serve
