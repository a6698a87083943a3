#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/mpi/rank_messages.h"
#include "espalier/mpi/ranks.h"

// The ranks that train for rank 0.
namespace espalier::mpi {

namespace {

// The next message of this kind; one that says that all is over, or nothing that a run's ranks say,
// when there is none to come. Others wait.
Message wait_for(Communicator& communicator, Say what) {
  std::vector<Message> others;
  while (true) {
    Message message = communicator.wait();
    const auto said = static_cast<Say>(message.bytes.at(0));
    if (said != what && (said < Say::kOver || said == Say::kData)) {
      others.push_back(std::move(message));
      continue;
    }
    for (Message& other : others) communicator.put_back(std::move(other));
    return message;
  }
}

// Its text; empty when it is no message of this kind.
std::string text_in(const Message& message, Say what) {
  ByteReader in(message.bytes, "mpi");
  return static_cast<Say>(in.get<uint8_t>()) == what ? text_of(get_block(in)) : std::string();
}

}  // namespace

std::string receive_setup(Communicator& communicator) {
  return text_in(wait_for(communicator, Say::kSetup), Say::kSetup);
}

void send_data(Communicator& communicator, const std::string& text) {
  for (const int rank : communicator.here())
    if (rank != communicator.rank()) communicator.send(rank, say_text(Say::kData, text));
}

std::string receive_data(Communicator& communicator) {
  Message message = wait_for(communicator, Say::kData);
  std::string text = text_in(message, Say::kData);
  if (text.empty()) communicator.put_back(std::move(message));
  return text;
}

void leave(Communicator& communicator) { communicator.send(0, begin(Say::kGone)); }

namespace {

// A client's task, or a batch to evaluate.
struct Work {
  uint64_t client = 0;
  wire::EncodedMessage task;
  std::shared_ptr<round::PartialSums> sums = nullptr;   // where its update is added, if anywhere
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

using Bodies = std::map<uint64_t, std::shared_ptr<const Bytes>>;

Work read_task(ByteReader& in, const Bodies& bodies,
               const std::shared_ptr<round::PartialSums>& sums) {
  Work work;
  work.client = in.get<uint64_t>();
  if (in.get<uint8_t>() != 0) work.sums = sums;
  const auto head = get_block(in);
  work.task.head.assign(head.begin(), head.end());
  const auto count = in.get<uint32_t>();
  for (uint32_t i = 0; i < count; ++i) {
    const auto id = in.get<uint64_t>();
    if (id == 0) {
      const auto block = get_block(in);
      work.task.bodies.push_back(std::make_shared<const Bytes>(block.begin(), block.end()));
      continue;
    }
    const auto found = bodies.find(id);
    if (found == bodies.end()) fail("mpi", "a task names a body that has not come");
    work.task.bodies.push_back(found->second);
    work.task.shared = true;
  }
  return work;
}

// Nothing when the update is no good, which rank 0 then finds as it would have without this.
std::optional<wire::Update> add(LocalClients& local, const Work& work,
                                const wire::EncodedMessage& update) {
  if (!work.sums) return std::nullopt;
  try {
    return local.add(work.client, update, *work.sums);
  } catch (const StorageError&) {
    throw;
  } catch (const Error&) {
    return std::nullopt;
  }
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
      const auto summed = add(local, *work, update);
      out = begin(summed ? Say::kSummed : Say::kUpdate);
      ByteWriter(out).put(work->client);
      desk.put_remembered(work->client, out);
      ByteWriter(out).put(update.size_bytes());
      if (summed) {
        put_update(*summed, out);
      } else {
        wire::write_stream(update, out);
      }
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

round::Summing read_summing(ByteReader& in) {
  round::Summing summing;
  summing.max_updates = in.get<uint64_t>();
  summing.max_weight = in.get<double>();
  for (auto left = in.get<uint32_t>(); left > 0; --left)
    summing.payloads.push_back(text_of(get_block(in)));
  return summing;
}

// This rank's part of the sums.
void reduce(Communicator& communicator, ByteReader& in, round::PartialSums& sums,
            const ParameterLayout& layout) {
  std::vector<int64_t> block;
  for (const std::string& payload : sums.payloads()) {
    const ExactAccumulator& sum = sums.sum(payload, layout);
    if (in.get<uint64_t>() != sum.num_words()) fail("mpi", "this rank's sums are of another model");
    for (uint64_t begin = 0; begin < sum.num_words(); begin += kBlock) {
      block.resize(std::min(kBlock, sum.num_words() - begin));
      sum.words(begin, block);
      communicator.reduce(block);
    }
  }
}

// A rank that cannot go on takes part in what all ranks do, or rank 0 would wait for it.
void keep_company(Communicator& communicator, const Message& message) {
  ByteReader in(message.bytes, "mpi");
  Bytes bytes;
  switch (static_cast<Say>(in.get<uint8_t>())) {
    case Say::kBroadcast:
      static_cast<void>(in.get<uint64_t>());
      bytes.resize(in.get<uint64_t>());
      communicator.receive_broadcast(bytes);
      break;
    case Say::kEvaluate: {
      static_cast<void>(in.get<uint64_t>());
      static_cast<void>(in.take(sizeof(int64_t) * in.get<uint32_t>()));
      bytes.resize(in.get<uint64_t>() * sizeof(float));
      communicator.receive_broadcast(bytes);
      break;
    }
    case Say::kReduce:
      while (in.remaining() > 0) {
        const auto words = in.get<uint64_t>();
        for (uint64_t begin = 0; begin < words; begin += kBlock) {
          std::vector<int64_t> nothing(std::min(kBlock, words - begin), 0);
          communicator.reduce(nothing);
        }
      }
      break;
    default:
      break;
  }
}

// The others may wait for this rank in a broadcast that it cannot take.
[[noreturn]] void no_memory(Communicator& communicator) {
  std::fprintf(stderr, "espalier: rank %d has no memory left\n", communicator.rank());
  communicator.abort(1);
}

// Until rank 0 says that the run is over: does what it says.
void talk(Communicator& communicator, Desk& desk, LocalClients& local,
          const std::atomic<bool>& ended) {
  Bodies bodies;
  std::shared_ptr<round::PartialSums> sums;  // of this exchange
  Work evaluated;                            // of this evaluation
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
          desk.add(read_task(in, bodies, sums));
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
          evaluated.evaluation = in.get<uint64_t>();
          std::vector<int64_t> units(in.get<uint32_t>());
          in.array(std::span(units));
          AlignedVector<float> values(in.get<uint64_t>());
          communicator.receive_broadcast(
              {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(float)});
          evaluated.model =
              std::make_shared<const ParameterSet>(local.layout(units), std::move(values));
          evaluated.version = local.new_version();
          break;
        }
        case Say::kBatch:
          evaluated.batch = in.get<uint64_t>();
          desk.add(evaluated);
          break;
        case Say::kBody: {
          const auto id = in.get<uint64_t>();
          const auto body = get_block(in);
          bodies[id] = std::make_shared<const Bytes>(body.begin(), body.end());
          break;
        }
        case Say::kBroadcast: {
          const auto id = in.get<uint64_t>();
          Bytes body(in.get<uint64_t>());
          communicator.receive_broadcast(body);
          bodies[id] = std::make_shared<const Bytes>(std::move(body));
          break;
        }
        case Say::kSumming:
          sums = std::make_shared<round::PartialSums>(read_summing(in));
          break;
        case Say::kReduce:
          reduce(communicator, in, *sums, *local.layout({}));
          break;
        case Say::kForget:
          bodies.clear();
          sums = nullptr;
          local.forget();
          break;
        case Say::kOver:
          return;
        default:
          fail("mpi", "rank 0 said something unknown; do all ranks run one build?");
      }
    }
    if (idle) {
      patience.wait(communicator.sending());
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
  } catch (const std::bad_alloc&) {
    no_memory(communicator);
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
    try {
      serve(communicator, make);
    } catch (const std::exception& error) {
      communicator.send(0, say_text(Say::kBroken, error.what()));
      // What rank 0 has sent before it heard of this comes to nothing.
      for (Message message = communicator.wait();
           static_cast<Say>(message.bytes.at(0)) != Say::kOver; message = communicator.wait())
        keep_company(communicator, message);
    }
  } catch (const std::bad_alloc&) {
    no_memory(communicator);
  }
  leave(communicator);
}

}  // namespace espalier::mpi
