#include "espalier/round/failure_history.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/round/exchange.h"

namespace espalier::round {
namespace {

constexpr size_t kMostNamed = 4;

// Rounds, steps and clients are named in reasons and make no other reason of them.
std::string without_numbers(const std::string& reason) {
  std::string kind;
  for (const char c : reason) {
    if (c < '0' || c > '9') kind += c;
  }
  return kind;
}

std::string names(std::vector<uint64_t> clients) {
  std::ranges::sort(clients);
  const size_t shown = std::min(clients.size(), kMostNamed);
  std::string text = clients.size() == 1 ? "client " : "clients ";
  for (size_t i = 0; i < shown; ++i) {
    const bool last = i > 0 && i + 1 == clients.size();
    text += concat(i == 0 ? "" : last ? " and " : ", ", clients[i]);
  }
  if (clients.size() > shown) text += concat(" and ", clients.size() - shown, " more");
  return text;
}

struct Struck {
  std::vector<uint64_t> all, fresh;  // failed for it; those of whom it is said for the first time
  std::string reason;
};

}  // namespace

FailureHistory::Verdict FailureHistory::add(std::span<const uint64_t> asked,
                                            const std::map<uint64_t, std::string>& failures) {
  std::map<std::string, Struck> kinds;
  for (const uint64_t client : asked) {
    const auto failure = failures.find(client);
    if (failure == failures.end() || failure->second == kNoAnswer) {
      clients_.erase(client);
      continue;
    }
    std::string kind = without_numbers(failure->second);
    Struck& struck = kinds[kind];
    if (struck.all.empty()) struck.reason = failure->second;
    struck.all.push_back(client);
    Entry& entry = clients_[client];
    if (kind != entry.kind) entry = {0, std::move(kind)};
    if (++entry.times == lasting_) struck.fresh.push_back(client);
  }
  std::erase_if(rounds_, [&](const auto& row) { return !kinds.contains(row.first); });
  Verdict verdict;
  for (const auto& [kind, struck] : kinds) {
    const std::string rounds =
        lasting_ == 1 ? "the only round" : concat("each of ", lasting_, " rounds");
    if (2 * struck.all.size() < asked.size()) {
      rounds_.erase(kind);
    } else if (++rounds_[kind] >= lasting_) {
      verdict.end = concat(struck.all.size(), " of ", asked.size(), " clients (", names(struck.all),
                           ") failed for the same reason, as at least half did in ", rounds, ": ",
                           struck.reason);
    }
    if (struck.fresh.empty()) continue;
    verdict.notes.push_back(
        concat(names(struck.fresh), " failed in ", rounds,
               " that it took part in, always for the same reason: ", struck.reason));
    if (struck.fresh.size() > 1) {
      std::string& note = verdict.notes.back();
      note.replace(note.find("it took"), 2, "they");
    }
  }
  return verdict;
}

}  // namespace espalier::round
