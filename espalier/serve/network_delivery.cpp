#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/serve/network_backend.h"
#include "espalier/serve/network_state.h"

// What has arrived whole in the spool, now or in an earlier attempt, on its way into the round.
namespace espalier::serve {

// Our disk's fault or the connection's, not the client's.
NetworkBackend::Verdict NetworkBackend::again() {
  return {{rpc::Verdict::kBusy, 0, {0, 1000}, "the update arrived damaged; send it again"}};
}

NetworkBackend::Verdict NetworkBackend::count(Exchange& exchange, uint64_t client,
                                              const FileReader& file) {
  struct Unreadable {};
  try {
    // Piece by piece: an update may be as large as the model.
    const auto read = [&](uint64_t offset, std::span<uint8_t> out) {
      try {
        file.read(offset, out);
      } catch (const Error&) {
        throw Unreadable();
      }
    };
    const wire::EncodedMessage message = wire::read_stream(file.size(), read);
    switch (exchange.traffic->delivered(client, message)) {
      case round::Receipt::kCounted:
        return {{rpc::Verdict::kAccepted, file.size(), {}, ""}, true, true};
      case round::Receipt::kFaulty:
        return {{rpc::Verdict::kRefused, file.size(), {}, "the update is no good"}, false, true};
      case round::Receipt::kRefused:
        break;
    }
    return {{rpc::Verdict::kStale, file.size(), {}, "nobody waits for it"}};
  } catch (const Unreadable&) {
    return again();
  } catch (const StorageError&) {
    throw;
  } catch (const Error& error) {
    exchange.traffic->failed(client, error.what());
    return {{rpc::Verdict::kRefused, 0, {}, error.what()}, false, true};
  }
}

// With the mutex held, by a job: it is over.
void NetworkBackend::settle(Exchange& exchange, uint64_t client, const Verdict& verdict,
                            uint64_t digest) {
  --working_;
  Part& part = exchange.parts.at(client);
  part.received = part.update_bytes = part.update_digest = 0;
  part.wait = !verdict.settled  ? Part::Wait::kAwaited
              : verdict.counted ? Part::Wait::kDelivered
                                : Part::Wait::kFailed;
  if (verdict.settled) {
    part.task = nullptr;
    part.counted_digest = digest;
    ++exchange.settled;
  }
  if (verdict.counted) {
    ++exchange.delivered;
    last_failures_.erase(client);
  } else if (verdict.settled) {
    last_failures_[client] = verdict.reply.detail;
  }
  if (verdict.counted) cohort_.answered(client);
  say({{"event", verdict.counted   ? "accepted"
                 : verdict.settled ? "failed"
                                   : "refused"},
       {"round", exchange.id.round},
       {"exchange", exchange.id.number},
       {"client", client},
       {"bytes", verdict.reply.received},
       {"detail", verdict.reply.detail}});
  changed_.notify_all();
}

void NetworkBackend::deliver(uint64_t client, uint64_t digest, bool intact,
                             const std::function<void(rpc::PushReply)>& done) {
  std::shared_ptr<Exchange> exchange;
  uint64_t task_digest = 0;
  {
    const std::lock_guard lock(mutex_);
    exchange = exchange_;
    if (!exchange) {
      --working_;
      cohort_.answered(client);
    }
    if (exchange) task_digest = exchange->parts.at(client).task->digest();
    changed_.notify_all();
  }
  if (!exchange) {
    done({rpc::Verdict::kStale, 0, {}, "the exchange is over"});
    return;
  }
  const Spool::Id id = spooled(*exchange, client);
  Verdict verdict = again();
  std::exception_ptr broken;
  try {
    if (intact) verdict = count(*exchange, client, FileReader(spool_.arriving(id)));
  } catch (const StorageError&) {
    broken = std::current_exception();
    verdict = {{rpc::Verdict::kStale, 0, {}, "the server cannot go on"}};
  } catch (const Error&) {
    // The file is gone: again.
  } catch (const std::exception&) {  // no memory
    broken = std::current_exception();
    verdict = {{rpc::Verdict::kStale, 0, {}, "the server cannot go on"}};
  }
  if (verdict.counted && exchange->id.kind != wire::TaskKind::kRecall) {
    spool_.keep(id, task_digest, digest);
  } else {
    spool_.discard(id);
  }
  {
    const std::lock_guard lock(mutex_);
    if (broken) broken_ = broken;
    settle(*exchange, client, verdict, digest);
  }
  done(verdict.reply);
}

void NetworkBackend::deliver_kept(uint64_t client) {
  std::shared_ptr<Exchange> exchange;
  {
    const std::lock_guard lock(mutex_);
    exchange = exchange_;
    if (!exchange) {
      --working_;
      changed_.notify_all();
      return;
    }
  }
  const Spool::Id id = spooled(*exchange, client);
  const auto kept = spool_.kept(id);
  Verdict verdict;
  bool asked = false;
  std::exception_ptr broken;
  try {
    const SentTask task(exchange->traffic->task(client));
    asked = true;
    if (kept && task.digest() == kept->task_digest) {
      const FileReader file(kept->file);
      if (file.digest() == kept->digest) verdict = count(*exchange, client, file);
    } else {
      verdict.reply.detail = "what was kept answers another task; the client is asked again";
    }
  } catch (const StorageError&) {
    broken = std::current_exception();
  } catch (const Error&) {
    // prepare() meets it again and says so.
  } catch (const std::exception&) {
    broken = std::current_exception();
  }
  if (!verdict.counted) {
    spool_.drop(id);
    spool_.forget_after(id.round, client);  // as in run()
  }
  const Lock lock(mutex_);
  if (broken) broken_ = broken;
  Part& part = exchange->parts.at(client);
  part.asked = part.asked || asked;
  settle(*exchange, client, verdict, kept ? kept->digest : 0);
  if (!verdict.settled) notify(client, lock);
}

}  // namespace espalier::serve
