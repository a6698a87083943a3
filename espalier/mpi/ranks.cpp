#include "espalier/mpi/ranks.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>

#include "espalier/base/error.h"

namespace espalier::mpi {

namespace {

// The first byte of a message.
enum class Say : uint8_t {
  // Rank 0 to the others.
  kSetup,   // text
  kTask,    // u64 client, u8 shared, head, u32 bodies: u64 id, u8 whether it follows, the body
  kState,   // u64 client, u32 version, u8 whether there is one, the state
  kForget,  // the exchange is over
  // u64 evaluation, u64 first batch, u64 last, u32 groups: i64 units each; u64 values: float32 each
  kEvaluate,
  kOver,
  // The others to rank 0.
  kReady,        // u64 threads
  kUpdate,       // u64 client, u8 remembers: u32 round, u32 base, the state; the update's stream
  kFailed,       // u64 client, text
  kStateWanted,  // u64 client, u32 version
  kSums,         // u64 evaluation, u64 batch, the sums
  kBroken,       // text: this rank cannot go on
  kGone,         // the last thing that it says
};

Bytes begin(Say what) {
  Bytes out;
  ByteWriter(out).put(static_cast<uint8_t>(what));
  return out;
}
void put_block(Bytes& out, std::span<const uint8_t> block) {
  ByteWriter writer(out);
  writer.put(static_cast<uint64_t>(block.size()));
  writer.bytes(block);
}
std::span<const uint8_t> get_block(ByteReader& in) { return in.take(in.get<uint64_t>()); }
std::string text_of(std::span<const uint8_t> block) { return {block.begin(), block.end()}; }
Bytes say_text(Say what, const std::string& text) {
  Bytes out = begin(what);
  put_block(out, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  return out;
}

void put_sums(const train::EvalSums& sums, Bytes& out) {
  ByteWriter writer(out);
  writer.put(sums.loss);
  writer.put(sums.correct);
  writer.put(sums.count);
  writer.put(static_cast<uint32_t>(sums.classes.size()));
  for (const train::ClassCount& one : sums.classes) {
    writer.put(one.label);
    writer.put(one.count);
    writer.put(one.correct);
  }
}
train::EvalSums get_sums(ByteReader& in) {
  train::EvalSums sums;
  sums.loss = in.get<double>();
  sums.correct = in.get<uint64_t>();
  sums.count = in.get<uint64_t>();
  const auto classes = in.get<uint32_t>();
  for (uint32_t i = 0; i < classes; ++i) {
    const auto label = in.get<int32_t>();
    const auto count = in.get<uint64_t>(), correct = in.get<uint64_t>();
    sums.classes.push_back({label, count, correct});
  }
  return sums;
}

}  // namespace

void send_setup(Communicator& communicator, const std::string& text) {
  for (int rank = 1; rank < communicator.size(); ++rank)
    communicator.send(rank, say_text(Say::kSetup, text));
}

std::string receive_setup(Communicator& communicator) {
  const Message message = communicator.wait();
  ByteReader in(message.bytes, "mpi");
  if (static_cast<Say>(in.get<uint8_t>()) != Say::kSetup) return {};  // over before it began
  return text_of(get_block(in));
}

void leave(Communicator& communicator) { communicator.send(0, begin(Say::kGone)); }

// ---- rank 0

struct RankBackend::Exchange {
  Exchange(std::span<const uint64_t> clients, round::RoundTraffic& carried, int ranks)
      : order(clients.begin(), clients.end()),
        traffic(carried),
        outstanding(static_cast<size_t>(ranks), 0),
        sent(static_cast<size_t>(ranks)) {}

  std::optional<uint64_t> next() {
    const size_t at = taken.fetch_add(1);
    if (at >= order.size()) return std::nullopt;
    return order[at];
  }
  size_t left() const {
    const size_t begun = taken.load();
    return begun >= order.size() ? 0 : order.size() - begun;
  }

  std::vector<uint64_t> order;
  round::RoundTraffic& traffic;
  std::atomic<size_t> taken = 0;
  std::vector<size_t> outstanding;  // by rank
  // Bodies that several clients share, by what they are; kept so that no other takes their place.
  std::unordered_map<const Bytes*, std::pair<uint64_t, std::shared_ptr<const Bytes>>> bodies;
  std::vector<std::set<uint64_t>> sent;  // by rank: those that it has
};

RankBackend::RankBackend(Communicator& communicator, LocalClients& local,
                         client::ClientStateStore& states, round::Backend& inner)
    : communicator_(communicator),
      local_(local),
      states_(states),
      inner_(inner),
      threads_(static_cast<size_t>(communicator.size()), 0) {
  threads_[0] = local.num_threads();
}

// The others make their clients while rank 0 makes its own.
void RankBackend::await_ranks() {
  if (ready_) return;
  ready_ = true;
  for (int waiting = communicator_.size() - 1; waiting > 0;) {
    const Message message = communicator_.wait();
    ByteReader in(message.bytes, "mpi");
    const auto what = static_cast<Say>(in.get<uint8_t>());
    if (what == Say::kBroken) {
      failure_ = concat("[mpi] rank ", message.from, ": ", text_of(get_block(in)));
      throw Error(failure_);
    }
    if (what != Say::kReady) continue;
    threads_[static_cast<size_t>(message.from)] = static_cast<size_t>(in.get<uint64_t>());
    --waiting;
  }
}

RankBackend::~RankBackend() {
  for (int rank = 1; rank < communicator_.size(); ++rank)
    communicator_.send(rank, begin(Say::kOver));
  // A rank may be in the middle of a client's training, of which nobody will hear.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  Patience patience;
  for (int there = communicator_.size() - 1; there > 0;) {
    if (const auto message = communicator_.receive()) {
      if (static_cast<Say>(message->bytes.at(0)) == Say::kGone) --there;
      patience.reset();
      continue;
    }
    patience.wait();
    if (std::chrono::steady_clock::now() < until) continue;
    std::fprintf(stderr, "espalier: %s%d ranks do not end; ending all\n",
                 failure_.empty() ? "" : (failure_ + "\n").c_str(), there);
    communicator_.abort(1);
  }
}

void RankBackend::end_by(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& failure) {
    failure_ = failure.what();
  } catch (...) {
    failure_ = "[mpi] the run failed";
  }
  std::rethrow_exception(error);
}

void RankBackend::hand_out(Exchange& exchange, int rank) {
  const auto client = exchange.next();
  if (!client) return;
  wire::EncodedMessage task;
  try {
    task = exchange.traffic.task(*client);
  } catch (const StorageError&) {
    throw;
  } catch (const Error& error) {
    exchange.traffic.failed(*client, error.what());
    return;
  }
  Bytes out = begin(Say::kTask);
  ByteWriter writer(out);
  writer.put(*client);
  put_block(out, task.head);
  writer.put(static_cast<uint32_t>(task.bodies.size()));
  for (const auto& body : task.bodies) {
    uint64_t id = 0;  // its own
    bool follows = true;
    if (task.shared) {
      const uint64_t fresh = exchange.bodies.size() + 1;
      const auto [found, added] = exchange.bodies.try_emplace(body.get(), fresh, body);
      id = found->second.first;
      follows = exchange.sent[static_cast<size_t>(rank)].insert(id).second;
    }
    writer.put(id);
    writer.put(static_cast<uint8_t>(follows));
    if (follows) put_block(out, *body);
  }
  ++exchange.outstanding[static_cast<size_t>(rank)];
  communicator_.send(rank, std::move(out));
}

void RankBackend::handle(Exchange& exchange, const Message& message) {
  ByteReader in(message.bytes, "mpi");
  const auto what = static_cast<Say>(in.get<uint8_t>());
  switch (what) {
    case Say::kUpdate: {
      const auto client = in.get<uint64_t>();
      if (in.get<uint8_t>() != 0) {
        const auto round = in.get<uint32_t>(), base = in.get<uint32_t>();
        states_.put(client, round, base, client::decode_state(get_block(in), "mpi"));
      }
      --exchange.outstanding[static_cast<size_t>(message.from)];
      exchange.traffic.delivered(client, wire::read_stream(get_block(in)));
      return;
    }
    case Say::kFailed: {
      const auto client = in.get<uint64_t>();
      --exchange.outstanding[static_cast<size_t>(message.from)];
      exchange.traffic.failed(client, text_of(get_block(in)));
      return;
    }
    case Say::kStateWanted: {
      const auto client = in.get<uint64_t>();
      const auto version = in.get<uint32_t>();
      Bytes out = begin(Say::kState);
      ByteWriter writer(out);
      writer.put(client);
      writer.put(version);
      try {
        const auto state = states_.get(client, version);
        writer.put(uint8_t{1});
        put_block(out, client::encode_state(*state));
      } catch (const StorageError&) {
        throw;
      } catch (const Error& error) {
        writer.put(uint8_t{0});
        const std::string text = error.what();
        put_block(out, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
      }
      communicator_.send(message.from, std::move(out));
      return;
    }
    case Say::kBroken:
      throw StorageError(concat("[mpi] rank ", message.from, ": ", text_of(get_block(in))));
    default:
      fail("mpi", "rank ", message.from, " said something unknown; do all ranks run one build?");
  }
}

void RankBackend::run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) {
  await_ranks();
  Exchange exchange(clients, traffic, communicator_.size());
  // The longest first, so that nobody begins a large client when the others are done.
  std::stable_sort(exchange.order.begin(), exchange.order.end(), [&](uint64_t a, uint64_t b) {
    return inner_.num_samples(a) > inner_.num_samples(b);
  });
  size_t all_threads = 0;
  for (const size_t threads : threads_) all_threads += threads;

  std::atomic<bool> local_done = false, failed = false;
  std::exception_ptr failure;
  const auto answer_one = [&](uint64_t client, size_t worker) {
    wire::EncodedMessage update;
    try {
      update = local_.answer(client, traffic.task(client), worker);
    } catch (const StorageError&) {
      throw;
    } catch (const Error& error) {
      traffic.failed(client, error.what());
      return;
    }
    traffic.delivered(client, update);
  };
  std::thread here([&] {
    try {
      local_.in_threads([&](size_t worker) {
        try {
          while (const auto client = exchange.next()) answer_one(*client, worker);
        } catch (...) {
          exchange.taken = exchange.order.size();  // nobody begins another one
          failed = true;
          throw;
        }
      });
    } catch (...) {
      failure = std::current_exception();
      failed = true;
    }
    local_done = true;
  });
  std::exception_ptr broken;
  try {
    Patience patience;
    while (!failed) {
      bool idle = true;
      // A rank has something to go on with while its updates are on their way; at the end nobody
      // takes work ahead that another could begin at once.
      for (int rank = 1; rank < communicator_.size(); ++rank) {
        const auto r = static_cast<size_t>(rank);
        const size_t ahead = exchange.left() > all_threads ? 2 : 0;
        while (exchange.outstanding[r] < threads_[r] + ahead && exchange.left() > 0) {
          hand_out(exchange, rank);
          idle = false;
        }
      }
      while (const auto message = communicator_.receive()) {
        handle(exchange, *message);
        idle = false;
      }
      const bool remote_done =
          std::ranges::all_of(exchange.outstanding, [](size_t count) { return count == 0; });
      if (local_done && remote_done && exchange.left() == 0) break;
      if (idle) {
        patience.wait();
      } else {
        patience.reset();
      }
    }
  } catch (...) {
    broken = std::current_exception();
    exchange.taken = exchange.order.size();  // nobody begins another one
  }
  here.join();
  for (int rank = 1; rank < communicator_.size(); ++rank)
    communicator_.send(rank, begin(Say::kForget));
  local_.forget();
  if (broken) end_by(broken);
  if (failure) end_by(failure);
}

train::EvalSums RankBackend::evaluate(const ParameterSet& model) {
  await_ranks();
  ++evaluations_;
  const size_t num_batches = local_.num_batches();
  size_t all_threads = 0, before = 0;
  for (const size_t threads : threads_) all_threads += threads;
  // Batches [shares[r], shares[r + 1]) are rank r's.
  std::vector<size_t> shares;
  for (const size_t threads : threads_) {
    shares.push_back(num_batches * before / all_threads);
    before += threads;
  }
  shares.push_back(num_batches);
  Bytes weights;
  ByteWriter writer(weights);
  const bool whole = model.layout() == *local_.layout({});
  const std::vector<int64_t> units = whole ? std::vector<int64_t>() : model.layout().group_sizes();
  writer.put(static_cast<uint32_t>(units.size()));
  writer.array(std::span<const int64_t>(units));
  writer.put(static_cast<uint64_t>(model.size()));
  writer.array(model.values());
  size_t awaited = 0;
  for (size_t rank = 1; rank + 1 < shares.size(); ++rank) {
    if (shares[rank] == shares[rank + 1]) continue;
    Bytes out = begin(Say::kEvaluate);
    ByteWriter head(out);
    head.put(evaluations_);
    head.put(static_cast<uint64_t>(shares[rank]));
    head.put(static_cast<uint64_t>(shares[rank + 1]));
    head.bytes(weights);
    awaited += shares[rank + 1] - shares[rank];
    communicator_.send(static_cast<int>(rank), std::move(out));
  }
  std::vector<train::EvalSums> sums(num_batches);
  std::atomic<size_t> next = 0;
  std::atomic<bool> local_done = false, failure_here = false;
  std::exception_ptr failure;
  const uint64_t version = local_.new_version();
  std::thread here([&] {
    try {
      local_.in_threads([&](size_t worker) {
        try {
          for (size_t batch = next++; batch < shares[1]; batch = next++)
            sums[batch] = local_.evaluate(model, version, batch, worker);
        } catch (...) {
          next = num_batches;
          throw;
        }
      });
    } catch (...) {
      failure = std::current_exception();
      failure_here = true;
    }
    local_done = true;
  });
  std::exception_ptr broken;
  try {
    Patience patience;
    while ((awaited > 0 && !failure_here) || !local_done) {
      const auto message = communicator_.receive();
      if (!message) {
        patience.wait();
        continue;
      }
      patience.reset();
      ByteReader in(message->bytes, "mpi");
      const auto what = static_cast<Say>(in.get<uint8_t>());
      if (what == Say::kBroken)
        throw StorageError(concat("[mpi] rank ", message->from, ": ", text_of(get_block(in))));
      if (what != Say::kSums || in.get<uint64_t>() != evaluations_) continue;
      const auto batch = in.get<uint64_t>();
      if (batch >= num_batches) fail("mpi", "rank ", message->from, " evaluated another batch");
      sums[batch] = get_sums(in);
      --awaited;
    }
  } catch (...) {
    broken = std::current_exception();
    next = num_batches;
  }
  here.join();
  if (broken) end_by(broken);
  if (failure) end_by(failure);
  train::EvalSums total;
  for (const train::EvalSums& part : sums) total += part;
  return total;
}

// ---- the other ranks

namespace {

// A client's task, or a batch to evaluate.
struct Work {
  uint64_t client = 0;
  wire::EncodedMessage task;
  std::shared_ptr<const ParameterSet> model = nullptr;  // null: a task
  uint64_t evaluation = 0, version = 0, batch = 0;
};

// What a rank's threads and its talking thread hand each other.
class Desk final : public client::ClientStateStore {
 public:
  // The threads: the next task; nothing when the run is over.
  std::optional<Work> next() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return over_ || !tasks_.empty(); });
    if (tasks_.empty()) return std::nullopt;
    Work work = std::move(tasks_.front());
    tasks_.pop_front();
    return work;
  }
  void say(Bytes message) {
    const std::lock_guard lock(mutex_);
    out_.push_back(std::move(message));
  }
  // What the client has remembered in the task that just ended here; written into its answer.
  void put_remembered(uint64_t client, Bytes& out) {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(client);
    ByteWriter writer(out);
    writer.put(static_cast<uint8_t>(found != kept_.end()));
    if (found == kept_.end()) return;
    writer.put(found->second.round);
    writer.put(found->second.base);
    put_block(out, client::encode_state(found->second.state));
    kept_.erase(found);
  }

  std::shared_ptr<const client::ClientState> get(uint64_t client, uint32_t version) override {
    Bytes wanted = begin(Say::kStateWanted);
    ByteWriter writer(wanted);
    writer.put(client);
    writer.put(version);
    std::unique_lock lock(mutex_);
    out_.push_back(std::move(wanted));
    changed_.wait(lock, [&] { return over_ || states_.contains(client); });
    const auto found = states_.find(client);
    if (found == states_.end()) fail("mpi", "the run is over");
    const auto [state, why] = std::move(found->second);
    states_.erase(found);
    if (!state) fail("mpi", why);
    return state;
  }
  void put(uint64_t client, uint32_t round, uint32_t base, client::ClientState state) override {
    const std::lock_guard lock(mutex_);
    kept_[client] = {round, base, std::move(state)};
  }

  // The talking thread.
  void add(Work work) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(work));
    changed_.notify_all();  // some wait for states
  }
  void add_state(uint64_t client, std::shared_ptr<const client::ClientState> state,
                 std::string why) {
    const std::lock_guard lock(mutex_);
    states_[client] = {std::move(state), std::move(why)};
    changed_.notify_all();
  }
  std::deque<Bytes> said() {
    const std::lock_guard lock(mutex_);
    return std::exchange(out_, {});
  }
  void end() {
    const std::lock_guard lock(mutex_);
    over_ = true;
    tasks_.clear();
    changed_.notify_all();
  }

 private:
  struct Kept {
    uint32_t round = 0, base = 0;
    client::ClientState state;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> tasks_;
  std::deque<Bytes> out_;
  std::map<uint64_t, std::pair<std::shared_ptr<const client::ClientState>, std::string>> states_;
  std::map<uint64_t, Kept> kept_;
  bool over_ = false;
};

Work read_task(ByteReader& in, std::map<uint64_t, std::shared_ptr<const Bytes>>& bodies) {
  Work work;
  work.client = in.get<uint64_t>();
  const auto head = get_block(in);
  work.task.head.assign(head.begin(), head.end());
  const auto count = in.get<uint32_t>();
  for (uint32_t i = 0; i < count; ++i) {
    const auto id = in.get<uint64_t>();
    if (in.get<uint8_t>() == 0) {
      const auto found = bodies.find(id);
      if (found == bodies.end()) fail("mpi", "a task names a body that has not come");
      work.task.bodies.push_back(found->second);
      work.task.shared = true;
      continue;
    }
    const auto block = get_block(in);
    auto body = std::make_shared<const Bytes>(block.begin(), block.end());
    if (id != 0) {
      bodies[id] = body;
      work.task.shared = true;
    }
    work.task.bodies.push_back(std::move(body));
  }
  return work;
}

// One of the rank's threads.
void answer_tasks(Desk& desk, LocalClients& local, size_t worker) {
  while (auto work = desk.next()) {
    Bytes out;
    try {
      if (work->model) {
        out = begin(Say::kSums);
        ByteWriter(out).put(work->evaluation);
        ByteWriter(out).put(work->batch);
        put_sums(local.evaluate(*work->model, work->version, work->batch, worker), out);
        desk.say(std::move(out));
        continue;
      }
      const wire::EncodedMessage update = local.answer(work->client, work->task, worker);
      out = begin(Say::kUpdate);
      ByteWriter(out).put(work->client);
      desk.put_remembered(work->client, out);
      ByteWriter(out).put(update.size_bytes());
      wire::write_stream(update, out);
    } catch (const StorageError& error) {
      out = say_text(Say::kBroken, error.what());
    } catch (const Error& error) {
      if (work->model) {
        desk.say(say_text(Say::kBroken, error.what()));
        continue;
      }
      out = begin(Say::kFailed);
      ByteWriter(out).put(work->client);
      const std::string text = error.what();
      put_block(out, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
    } catch (const std::exception& error) {
      out = say_text(Say::kBroken, error.what());
    }
    desk.say(std::move(out));
  }
}

}  // namespace

namespace {

// Until rank 0 says that the run is over: does what it says.
void talk(Communicator& communicator, Desk& desk, LocalClients& local,
          const std::atomic<bool>& ended) {
  std::map<uint64_t, std::shared_ptr<const Bytes>> bodies;
  Patience patience;
  while (true) {
    bool idle = true;
    for (Bytes& message : desk.said()) {
      communicator.send(0, std::move(message));
      idle = false;
    }
    if (ended) fail("mpi", "this rank's threads have ended early");
    if (const auto message = communicator.receive()) {
      idle = false;
      ByteReader in(message->bytes, "mpi");
      switch (static_cast<Say>(in.get<uint8_t>())) {
        case Say::kTask:
          desk.add(read_task(in, bodies));
          break;
        case Say::kState: {
          const auto client = in.get<uint64_t>();
          static_cast<void>(in.get<uint32_t>());
          const bool there = in.get<uint8_t>() != 0;
          const auto block = get_block(in);
          desk.add_state(client,
                         there ? std::make_shared<const client::ClientState>(
                                     client::decode_state(block, "mpi"))
                               : nullptr,
                         there ? std::string() : text_of(block));
          break;
        }
        case Say::kEvaluate: {
          Work job;
          job.evaluation = in.get<uint64_t>();
          const auto first = in.get<uint64_t>(), last = in.get<uint64_t>();
          std::vector<int64_t> units(in.get<uint32_t>());
          in.array(std::span(units));
          AlignedVector<float> values(in.get<uint64_t>());
          in.array(std::span(values));
          job.model = std::make_shared<const ParameterSet>(local.layout(units), std::move(values));
          job.version = local.new_version();
          for (job.batch = first; job.batch < last; ++job.batch) desk.add(job);
          break;
        }
        case Say::kForget:
          bodies.clear();
          local.forget();
          break;
        case Say::kOver:
          return;
        default:
          fail("mpi", "rank 0 said something unknown; do all ranks run one build?");
      }
    }
    if (idle) {
      patience.wait();
    } else {
      patience.reset();
    }
  }
}

void serve(
    Communicator& communicator,
    const std::function<std::unique_ptr<LocalClients>(client::ClientStateStore& states)>& make) {
  Desk desk;
  const std::unique_ptr<LocalClients> local = make(desk);
  Bytes ready = begin(Say::kReady);
  ByteWriter(ready).put(static_cast<uint64_t>(local->num_threads()));
  communicator.send(0, std::move(ready));
  std::atomic<bool> ended = false;
  std::exception_ptr failure;
  std::thread threads([&] {
    try {
      local->in_threads([&](size_t worker) { answer_tasks(desk, *local, worker); });
    } catch (...) {
      failure = std::current_exception();
    }
    ended = true;
  });
  std::exception_ptr broken;
  try {
    talk(communicator, desk, *local, ended);
  } catch (...) {
    broken = std::current_exception();
  }
  desk.end();
  threads.join();
  if (failure) std::rethrow_exception(failure);
  if (broken) std::rethrow_exception(broken);
}

}  // namespace

void work(
    Communicator& communicator,
    const std::function<std::unique_ptr<LocalClients>(client::ClientStateStore& states)>& make) {
  try {
    serve(communicator, make);
  } catch (const std::exception& error) {
    communicator.send(0, say_text(Say::kBroken, error.what()));
    // What rank 0 has sent before it heard of this comes to nothing.
    while (static_cast<Say>(communicator.wait().bytes.at(0)) != Say::kOver) {
    }
  }
  leave(communicator);
}

}  // namespace espalier::mpi
