#include "espalier/serve/network_backend.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "espalier/base/error.h"
#include "espalier/base/file.h"
#include "espalier/serve/network_state.h"

namespace espalier::serve {

namespace fs = std::filesystem;

namespace {

rpc::RetryWindow window_of(const Window& window) {
  const auto ms = [](double seconds) { return static_cast<uint32_t>(std::lround(seconds * 1000)); };
  return {ms(window.min_s), ms(window.max_s)};
}

// What the model is made of; everything else is asked for beside it.
bool makes_model(wire::TaskKind kind) {
  return kind == wire::TaskKind::kTrain || kind == wire::TaskKind::kExplore;
}

}  // namespace

NetworkBackend::NetworkBackend(const NetworkOptions& options)
    : options_(options),
      registry_(options.folder / "registry.jsonl", options.num_clients),
      spool_(options.folder / "spool", options.spool_bytes),
      pace_(options.pace),
      cohort_({.over_selection = options.over_selection,
               .min_fraction = options.min_fraction,
               .select_window_s = options.select_window_s}) {
  if (options_.open)
    for (const uint64_t client : registry_.clients()) population_.know(client, 0);
  jobs_ = std::make_unique<JobQueue>(options_.workers);
  time_ = std::thread([this] { keep_time(); });
}

NetworkBackend::~NetworkBackend() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    time_changed_.notify_all();
  }
  time_.join();
  jobs_.reset();
}

// ---------------------------------------------------------------- the round's side

bool NetworkBackend::wait_for_clients(double deadline_s, const volatile std::sig_atomic_t* stop,
                                      const std::function<void(uint64_t, uint64_t)>& tell) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(deadline_s);
  if (options_.open) return true;  // each round waits for those that it needs
  uint64_t told = ~uint64_t{0};
  while (registry_.size() < options_.num_clients) {
    if (stop != nullptr && *stop != 0) return false;
    if (const uint64_t now = registry_.size(); now != told) tell(told = now, options_.num_clients);
    if (Clock::now() >= deadline) {
      constexpr size_t kShown = 10;
      std::string names;
      for (const uint64_t client : registry_.missing(kShown))
        names += concat(names.empty() ? "" : ", ", client);
      const uint64_t missing = options_.num_clients - registry_.size();
      fail("serve", missing, missing == 1 ? " client has" : " clients have", " not joined within ",
           deadline_s, " s: ", names, missing > kShown ? ", …" : "",
           "; start them, or raise server.enrol_deadline_s");
    }
    Lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(100));
  }
  tell(options_.num_clients, options_.num_clients);
  return true;
}

double NetworkBackend::now_s() const {
  return std::chrono::duration<double>(Clock::now() - begin_).count();
}

bool NetworkBackend::is_alive(const Session& session, Clock::time_point now) const {
  const auto last = std::max(session.seen, session.moved->load());
  return !session.left && now - last < std::chrono::milliseconds(options_.lease_ms);
}

// Whoever waits for a task is there, however long it waits.
bool NetworkBackend::is_there(uint64_t client, Clock::time_point now) const {
  const auto found = sessions_.find(client);
  return found != sessions_.end() && (is_alive(found->second, now) || waiting_.has(client));
}

// Whether all that are still awaited have gone.
bool NetworkBackend::deserted(const Exchange& exchange) const {
  const auto now = Clock::now();
  return std::ranges::none_of(exchange.parts, [&](const auto& entry) {
    const auto& [client, part] = entry;
    return part.wait == Part::Wait::kDelivering ||
           (part.wait == Part::Wait::kAwaited && is_there(client, now));
  });
}

std::vector<uint64_t> NetworkBackend::here_of(std::span<const uint64_t> eligible) {
  std::vector<uint64_t> present;
  const auto now = Clock::now();
  for (auto one = here_.begin(); one != here_.end();) {
    const uint64_t client = *one;
    if (!is_there(client, now)) {
      one = here_.erase(one);
      continue;
    }
    ++one;
    if (eligible.empty() || std::binary_search(eligible.begin(), eligible.end(), client))
      present.push_back(client);
  }
  return present;
}

std::vector<uint64_t> NetworkBackend::present(std::span<const uint64_t> eligible) {
  if (!options_.open) return Backend::present(eligible);
  const std::lock_guard lock(mutex_);
  return here_of(eligible);
}

std::vector<uint64_t> NetworkBackend::select(Key key, std::span<const uint64_t> eligible,
                                             uint64_t count) {
  if (!options_.open) return Backend::select(key, eligible, count);
  const auto goal = static_cast<size_t>(count);
  const double begun = now_s();
  Lock lock(mutex_);
  pace_.selecting(cohort_.wanted(goal));
  std::vector<uint64_t> here = here_of(eligible);
  while (!cohort_.may_begin(goal, here.size(), now_s() - begun)) {
    if (options_.stop != nullptr && *options_.stop != 0)
      throw round::RoundFailed(concat("[serve] stopped while ", here.size(), " of ",
                                      cohort_.wanted(goal), " clients were there"));
    changed_.wait_for(lock, std::chrono::milliseconds(100));
    here = here_of(eligible);
  }
  std::vector<uint64_t> clients = cohort_.draw(key, here, goal);
  wanted_ = Cohort::enough(goal, clients.size());
  return clients;
}

void NetworkBackend::run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) {
  registry_.make_durable();  // from now on the run's bytes depend on it
  const auto exchange = std::make_shared<Exchange>();
  exchange->id = traffic.id();
  exchange->traffic = &traffic;
  for (const uint64_t client : clients) exchange->parts[client];
  exchange->wanted = clients.size();
  const bool recalls = exchange->id.kind == wire::TaskKind::kRecall;
  auto deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(
                         recalls ? options_.recall_deadline_s : options_.round_deadline_s));
  // Who has left an open population may never come back; to train, others were asked besides.
  const bool goes_on_without = options_.open && !makes_model(exchange->id.kind);
  Lock lock(mutex_);
  if (exchange->id.round != last_.round) {
    attempt_ = 1;
  } else if (exchange->id.number <= last_.number) {
    ++attempt_;  // the numbers of a round's exchanges begin anew
  }
  last_ = exchange->id;
  if (wanted_ > 0) exchange->wanted = std::min<size_t>(exchange->wanted, wanted_);
  wanted_ = 0;
  exchange->attempt = attempt_;
  const bool trains = exchange->id.kind == wire::TaskKind::kTrain;
  if (options_.open && trains) {
    pace_.opened(now_s());
    cohort_.ask(clients);
    if (exchange->id.round > 0) release(exchange->id.round - 1);
    for (const uint64_t client : clients) {
      const auto session = sessions_.find(client);
      if (session != sessions_.end()) session->second.used_in = exchange->id.round;
    }
  } else {
    pace_.not_opened();
  }
  say({{"event", "opened"},
       {"round", exchange->id.round},
       {"exchange", exchange->id.number},
       {"attempt", attempt_},
       {"clients", std::vector<uint64_t>(clients.begin(), clients.end())}});
  exchange_ = exchange;
  for (const uint64_t client : clients) {
    if (spool_.kept(spooled(*exchange, client))) {
      exchange->parts.at(client).wait = Part::Wait::kDelivering;
      ++working_;
      jobs_->post([this, client] { deliver_kept(client); });
    } else {
      // It makes its update anew, and forgets what it remembers of later rounds: so must we.
      if (trains) spool_.forget_after(exchange->id.round, client);
      notify(client, lock);
    }
  }
  // Neither a signal nor who is gone wakes anybody: they are looked for.
  constexpr auto kLook = std::chrono::milliseconds(200);
  bool stopped = false;
  const auto over = [&] {
    return exchange->settled == exchange->parts.size() || exchange->delivered >= exchange->wanted ||
           broken_ != nullptr;
  };
  while (!over() && Clock::now() < deadline) {
    if (goes_on_without && deserted(*exchange)) break;
    if (!stopped && options_.stop != nullptr && *options_.stop != 0) {
      stopped = true;
      deadline =
          std::min(deadline, Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                std::chrono::duration<double>(options_.drain_s)));
    }
    const bool look = goes_on_without || options_.stop != nullptr;
    changed_.wait_until(lock, look ? std::min(deadline, Clock::now() + kLook) : deadline, over);
  }
  exchange_ = nullptr;
  // The traffic is the caller's again only when nobody uses it.
  changed_.wait(lock, [&] { return working_ == 0; });
  for (const auto& [client, part] : exchange->parts) {
    // Of what is not whole; who still writes writes into nothing.
    if (part.update_bytes > 0) spool_.discard(spooled(*exchange, client));
    if (!part.asked) cohort_.withdrawn(client);
  }
  if (broken_) std::rethrow_exception(broken_);
  require_enough(*exchange, stopped, lock);
}

// Whether a round may go on without those who have not answered.
void NetworkBackend::require_enough(const Exchange& exchange, bool stopped, const Lock&) const {
  constexpr size_t kNames = 10;
  size_t answered = 0;
  std::vector<uint64_t> missing, unasked;
  for (const auto& [client, part] : exchange.parts) {
    if (part.wait == Part::Wait::kDelivered) {
      ++answered;
    } else {
      missing.push_back(client);
      if (!part.asked) unasked.push_back(client);
    }
  }
  // What a round has trained counts, whoever answers what is asked afterwards. When the server
  // stops meanwhile, all of the round is made again: half of it would be another result.
  const bool cut_short =
      stopped && answered < exchange.wanted && exchange.settled < exchange.parts.size();
  const bool optional =
      exchange.id.kind == wire::TaskKind::kRecall || (!makes_model(exchange.id.kind) && !cut_short);
  const bool counts =
      optional || missing.empty() || (!cut_short && cohort_.counts(answered, exchange.wanted));
  say({{"event", "closed"},
       {"round", exchange.id.round},
       {"exchange", exchange.id.number},
       {"attempt", exchange.attempt},
       {"answered", answered},
       {"missing", missing},
       {"unasked", unasked},
       {"counted", counts}});
  if (counts) return;
  std::string names;
  for (size_t i = 0; i < std::min(kNames, missing.size()); ++i)
    names += concat(i == 0 ? "" : ", ", missing[i]);
  if (missing.size() > kNames) names += concat(" and ", missing.size() - kNames, " more");
  throw round::RoundFailed(concat("[serve] round ", exchange.id.round, ", attempt ",
                                  exchange.attempt, ": ", answered, " of ", exchange.parts.size(),
                                  " clients have answered; missing: ", names));
}

void NetworkBackend::commit(uint32_t round, const std::map<uint64_t, uint32_t>& versions) {
  const std::lock_guard lock(mutex_);
  for (const auto& [client, version] : versions) committed_[client] = version;
  spool_.forget_through(round);
  release(round);
}

// With the mutex held, as the three below.
std::optional<rpc::RetryWindow> NetworkBackend::send_away(uint64_t client, Session& session) {
  if (!options_.open || finished_ || away_) return std::nullopt;
  if (exchange_) {
    const auto part = exchange_->parts.find(client);
    if (part != exchange_->parts.end() && part->second.wait == Part::Wait::kAwaited)
      return std::nullopt;
  }
  // Whom a round has used it may ask again: to evaluate.
  if (session.used_in && *session.used_in > over_) return std::nullopt;
  Pace::Asking asking{.population = population_.active(now_s()),
                      .waiting = 0,
                      .just_used = session.used_in.has_value()};
  session.used_in.reset();
  for (const uint64_t other : waiting_.clients())
    if (other != client && !sessions_.at(other).used_in) ++asking.waiting;
  const auto window = pace_.answer(asking, now_s());
  if (!window) return std::nullopt;
  here_.erase(client);
  return window_of(*window);
}

// They hear it from the clock's thread.
void NetworkBackend::release(uint32_t round) {
  if (!options_.open || round <= over_) return;
  over_ = round;
  const bool go = pace_.answer({population_.active(now_s()), 0, true}, now_s()).has_value();
  for (const uint64_t client : waiting_.clients()) {
    Session& session = sessions_.at(client);
    if (!session.used_in || *session.used_in > round) continue;
    if (go) {
      waiting_.end(client, Clock::now());
    } else {
      session.used_in.reset();
    }
  }
  if (go) time_changed_.notify_all();
}

rpc::AwaitReply NetworkBackend::reply_to(uint64_t client) const {
  rpc::AwaitReply reply;
  const auto committed = committed_.find(client);
  if (committed != committed_.end()) reply.committed_version = committed->second;
  return reply;
}

void NetworkBackend::finish(bool completed, const std::string& reason, double grace_s) {
  Lock lock(mutex_);
  finished_ = rpc::Finished{completed, reason};
  say({{"event", "finished"}, {"completed", completed}, {"reason", reason}});
  waiting_.end_all(Clock::now());
  time_changed_.notify_all();
  // Also who is away just now: it would look for the server for ever.
  const auto all_know = [&] {
    for (uint64_t client = 0; client < options_.num_clients; ++client) {
      if (!registry_.contains(client)) continue;
      const auto session = sessions_.find(client);
      if (session == sessions_.end() || !(session->second.told_end || session->second.left))
        return false;
    }
    return true;
  };
  changed_.wait_for(lock, std::chrono::duration<double>(grace_s), all_know);
}

void NetworkBackend::go_away() {
  constexpr double kLeastPause_s = 1, kMostPause_s = 5;
  constexpr auto kGrace = std::chrono::seconds(1);
  Lock lock(mutex_);
  double most_s = kMostPause_s;
  if (options_.open) most_s = std::max(most_s, pace_.reconnect(population_.active(now_s())).max_s);
  away_ = window_of({kLeastPause_s, most_s});
  say({{"event", "stopped"}});
  waiting_.end_all(Clock::now());
  time_changed_.notify_all();
  changed_.wait_for(lock, kGrace, [&] { return waiting_.clients().empty(); });
}

double NetworkBackend::drop_out() const {
  const std::lock_guard lock(mutex_);
  return cohort_.drop_out();
}

std::vector<ClientView> NetworkBackend::clients() const {
  const auto now = Clock::now();
  std::vector<ClientView> out;
  const std::lock_guard lock(mutex_);
  const auto view_of = [&](uint64_t client, const Session& session) {
    return ClientView{client,           true,          is_alive(session, now), session.phase,
                      session.progress, session.detail};
  };
  if (options_.open) {
    for (const auto& [client, session] : sessions_)
      if (ClientView view = view_of(client, session); view.connected)
        out.push_back(std::move(view));
    return out;
  }
  for (uint64_t client = 0; client < options_.num_clients; ++client) {
    const auto found = sessions_.find(client);
    if (found != sessions_.end()) {
      out.push_back(view_of(client, found->second));
    } else {
      out.emplace_back().client = client;
      out.back().enrolled = registry_.contains(client);
    }
  }
  return out;
}

void NetworkBackend::prepare(uint64_t client) {
  std::shared_ptr<Exchange> exchange;
  {
    const std::lock_guard lock(mutex_);
    exchange = exchange_;
  }
  std::shared_ptr<const SentTask> task;
  std::string error;
  std::exception_ptr broken;
  if (exchange) {
    try {
      task = std::make_shared<SentTask>(exchange->traffic->task(client));
    } catch (const StorageError&) {
      broken = std::current_exception();
    } catch (const Error& failure) {
      error = failure.what();
      exchange->traffic->failed(client, error);
    } catch (const std::exception&) {
      broken = std::current_exception();
    }
  }
  std::vector<uint64_t> tickets;
  Lock lock(mutex_);
  --working_;
  if (broken) broken_ = broken;
  if (exchange) {
    Part& part = exchange->parts.at(client);
    part.encoding = false;
    part.asked = part.asked || task != nullptr;
    part.task = task;
    // It may have failed by its own word meanwhile.
    if (!error.empty() && part.wait == Part::Wait::kAwaited) {
      part.wait = Part::Wait::kFailed;
      ++exchange->settled;
      last_failures_[client] = error;
    }
    if (task && part.wait == Part::Wait::kAwaited) tickets = waiting_.tickets_of(client);
  }
  changed_.notify_all();
  lock.unlock();
  for (const uint64_t ticket : tickets) tell(client, ticket, task);
}

void NetworkBackend::tell(uint64_t client, uint64_t ticket,
                          const std::shared_ptr<const SentTask>& task) {
  rpc::AwaitReply reply;
  std::function<void(rpc::AwaitReply)> answer;
  {
    const std::lock_guard lock(mutex_);
    if (!exchange_) return;  // it asks again
    const auto part = exchange_->parts.find(client);
    if (part == exchange_->parts.end() || part->second.task != task ||
        part->second.wait != Part::Wait::kAwaited)
      return;
    auto waiter = waiting_.leave(ticket);
    if (!waiter) return;
    answer = std::move(waiter->answer);
    rpc::TaskNotice notice;
    notice.ticket = ticket_of(*exchange_);
    notice.bytes = task->size();
    notice.digest = task->digest();
    notice.max_update_bytes = max_update_bytes_;
    reply.next = notice;
    const auto committed = committed_.find(client);
    reply.committed_version = committed == committed_.end() ? 0 : committed->second;
    const auto failure = last_failures_.find(client);
    if (failure != last_failures_.end()) reply.last_failure = failure->second;
  }
  answer(reply);
}

void NetworkBackend::say(Json event) const {
  if (!options_.on_event) return;
  const std::lock_guard lock(saying_);
  options_.on_event(event);
}

}  // namespace espalier::serve
