#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <optional>
#include <thread>
#include <unordered_map>

#include "espalier/base/error.h"
#include "espalier/mpi/dispatch.h"
#include "espalier/mpi/rank_messages.h"
#include "espalier/mpi/ranks.h"

// Rank 0.
namespace espalier::mpi {

void send_setup(Communicator& communicator, const std::string& text) {
  for (int rank = 1; rank < communicator.size(); ++rank)
    communicator.send(rank, say_text(Say::kSetup, text));
}

struct RankBackend::Exchange {
  Exchange(std::span<const uint64_t> clients, round::RoundTraffic& carried,
           const round::Backend& sizes, const std::vector<size_t>& threads)
      : traffic(carried),
        dispatch(
            {clients.begin(), clients.end()},
            [&](uint64_t client) { return sizes.num_samples(client); }, threads) {}

  round::RoundTraffic& traffic;
  Dispatch dispatch;
  std::optional<round::Summing> summing;  // whether ranks add their updates
  uint64_t summed = 0;                    // updates that ranks have added
  // Bodies that clients may share, by what they are; kept so that no other takes their place.
  struct Body {
    uint64_t id = 0;
    std::shared_ptr<const Bytes> bytes;
    int at = 0;  // the one rank that has it; 0: all have
  };
  std::unordered_map<const Bytes*, Body> bodies;
};

namespace {

// From so many clients per rank on, a rank's sum takes less of rank 0's time than the updates.
constexpr size_t kSumFrom = 4;

}  // namespace

RankBackend::RankBackend(Communicator& communicator, LocalClients& local,
                         client::ClientStateStore& states, round::Backend& inner)
    : communicator_(communicator),
      local_(local),
      states_(states),
      inner_(inner),
      threads_(static_cast<size_t>(communicator.size()), 0) {
  // As many parts of a sum can be added (ExactAccumulator::words).
  if (communicator.size() > 1 << 14) fail("mpi", "a run takes at most ", 1 << 14, " ranks");
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
    if (what != Say::kReady) {
      std::fprintf(stderr,
                   "espalier: rank %d does something else; start all ranks with one command\n",
                   message.from);
      communicator_.abort(2);
    }
    threads_[static_cast<size_t>(message.from)] = static_cast<size_t>(in.get<uint64_t>());
    --waiting;
  }
}

RankBackend::~RankBackend() {
  say_all(begin(Say::kOver));
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

size_t RankBackend::num_threads() {
  await_ranks();
  return std::accumulate(threads_.begin(), threads_.end(), size_t{0});
}

void RankBackend::say_all(const Bytes& message) {
  for (int rank = 1; rank < communicator_.size(); ++rank) communicator_.send(rank, message);
}

void RankBackend::hand_out(Exchange& exchange, int rank, uint64_t client) {
  wire::EncodedMessage task;
  try {
    task = exchange.traffic.task(client);
  } catch (const StorageError&) {
    throw;
  } catch (const Error& error) {
    exchange.dispatch.answered(static_cast<size_t>(rank));
    exchange.traffic.failed(client, error.what());
    return;
  }
  Bytes out = begin(Say::kTask);
  ByteWriter writer(out);
  writer.put(client);
  writer.put(static_cast<uint8_t>(exchange.summing && exchange.traffic.summable(client)));
  put_block(out, task.head);
  writer.put(static_cast<uint32_t>(task.bodies.size()));
  for (const auto& bytes : task.bodies) {
    if (!task.shared) {
      writer.put(uint64_t{0});
      put_block(out, *bytes);
      continue;
    }
    auto& body = exchange.bodies[bytes.get()];
    if (body.id == 0) {
      // Perhaps nobody else gets it.
      body = {exchange.bodies.size(), bytes, rank};
      Bytes first = begin(Say::kBody);
      ByteWriter(first).put(body.id);
      put_block(first, *bytes);
      communicator_.send(rank, std::move(first));
    } else if (body.at != 0 && body.at != rank) {
      body.at = 0;
      Bytes next = begin(Say::kBroadcast);
      ByteWriter(next).put(body.id);
      ByteWriter(next).put(static_cast<uint64_t>(bytes->size()));
      say_all(next);
      communicator_.broadcast(*bytes);
    }
    writer.put(body.id);
  }
  communicator_.send(rank, std::move(out));
}

// The parts of the sums, payload by payload; rank 0's own clients are in the round's already.
void RankBackend::reduce(Exchange& exchange) {
  std::vector<ExactAccumulator*> sums;
  Bytes out = begin(Say::kReduce);
  for (const std::string& payload : exchange.summing->payloads) {
    sums.push_back(&exchange.traffic.sum(payload));
    ByteWriter(out).put(static_cast<uint64_t>(sums.back()->num_words()));
  }
  say_all(out);
  std::vector<int64_t> block;
  for (ExactAccumulator* sum : sums) {
    const uint64_t before = sum->contributions();
    for (uint64_t begin = 0; begin < sum->num_words(); begin += kBlock) {
      block.assign(std::min(kBlock, sum->num_words() - begin), 0);
      communicator_.reduce(block);
      sum->add_words(begin, block);
    }
    // A rank that could not go on takes part with nothing, and has said why.
    if (sum->contributions() - before == exchange.summed) continue;
    while (const auto message = communicator_.receive()) handle(exchange, *message);
    fail("mpi", "a rank's part of the sums is missing");
  }
}

void RankBackend::handle(Exchange& exchange, const Message& message) {
  ByteReader in(message.bytes, "mpi");
  const auto what = static_cast<Say>(in.get<uint8_t>());
  switch (what) {
    case Say::kUpdate:
    case Say::kSummed: {
      const auto client = in.get<uint64_t>();
      if (in.get<uint8_t>() != 0) {
        const auto round = in.get<uint32_t>(), base = in.get<uint32_t>();
        states_.put(client, round, base, client::decode_state(get_block(in), "mpi"));
      }
      exchange.dispatch.answered(static_cast<size_t>(message.from));
      if (what == Say::kUpdate) {
        exchange.traffic.delivered(client, wire::read_stream(get_block(in)));
        return;
      }
      const auto size = in.get<uint64_t>();
      ++exchange.summed;
      if (exchange.traffic.summed(client, get_update(in), size) != round::Receipt::kCounted)
        fail("mpi", "rank ", message.from, " has added an update that does not count");
      return;
    }
    case Say::kFailed: {
      const auto client = in.get<uint64_t>();
      exchange.dispatch.answered(static_cast<size_t>(message.from));
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

// What the threads of this rank do, while this one talks to the others.
void RankBackend::work_and_talk(const std::function<void(size_t worker)>& work,
                                const std::function<void()>& stop,
                                const std::function<Talk(bool worked)>& talk) {
  std::atomic<bool> worked = false, failed = false;
  std::exception_ptr failure, broken;
  std::thread here([&] {
    try {
      local_.in_threads([&](size_t worker) {
        try {
          work(worker);
        } catch (...) {
          stop();
          failed = true;
          throw;
        }
      });
    } catch (...) {
      failure = std::current_exception();
      failed = true;
    }
    worked = true;
  });
  try {
    Patience patience;
    while (!failed) {
      const Talk said = talk(worked);
      if (said == Talk::kDone) break;
      if (said == Talk::kIdle) {
        patience.wait(communicator_.sending());
      } else {
        patience.reset();
      }
    }
  } catch (...) {
    broken = std::current_exception();
    stop();
  }
  here.join();
  if (broken) end_by(broken);
  if (failure) end_by(failure);
}

void RankBackend::run(std::span<const uint64_t> clients, round::RoundTraffic& traffic) {
  await_ranks();
  Exchange exchange(clients, traffic, inner_, threads_);
  if (clients.size() >= kSumFrom * static_cast<size_t>(communicator_.size()))
    exchange.summing = traffic.summing();
  if (exchange.summing) {
    Bytes out = begin(Say::kSumming);
    ByteWriter writer(out);
    writer.put(exchange.summing->max_updates);
    writer.put(exchange.summing->max_weight);
    writer.put(static_cast<uint32_t>(exchange.summing->payloads.size()));
    for (const std::string& payload : exchange.summing->payloads) put_text(out, payload);
    say_all(out);
  }

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
  work_and_talk(
      [&](size_t worker) {
        while (const auto client = exchange.dispatch.next()) answer_one(*client, worker);
      },
      [&] { exchange.dispatch.stop(); },
      [&](bool worked) {
        bool idle = true;
        for (int rank = 1; rank < communicator_.size(); ++rank) {
          while (const auto client = exchange.dispatch.next_for(static_cast<size_t>(rank))) {
            hand_out(exchange, rank, *client);
            idle = false;
          }
        }
        while (const auto message = communicator_.receive()) {
          handle(exchange, *message);
          idle = false;
        }
        if (worked && exchange.dispatch.over()) return Talk::kDone;
        return idle ? Talk::kIdle : Talk::kBusy;
      });
  if (exchange.summed > 0) {
    try {
      reduce(exchange);
    } catch (...) {
      end_by(std::current_exception());
    }
  }
  // Not after a failure: ranks may be at work with what they would forget.
  say_all(begin(Say::kForget));
  local_.forget();
}

train::EvalSums RankBackend::evaluate(const ParameterSet& model) {
  await_ranks();
  ++evaluations_;
  const size_t num_batches = local_.num_batches();
  const bool whole = model.layout() == *local_.layout({});
  const std::vector<int64_t> units = whole ? std::vector<int64_t>() : model.layout().group_sizes();
  const auto announce = [&] {
    Bytes out = begin(Say::kEvaluate);
    ByteWriter head(out);
    head.put(evaluations_);
    head.put(static_cast<uint32_t>(units.size()));
    head.array(std::span<const int64_t>(units));
    head.put(static_cast<uint64_t>(model.size()));
    say_all(out);
    communicator_.broadcast(
        {reinterpret_cast<const uint8_t*>(model.values().data()), model.values().size_bytes()});
  };
  bool announced = false;
  std::vector<train::EvalSums> sums(num_batches);
  std::vector<uint64_t> batches(num_batches);
  std::iota(batches.begin(), batches.end(), uint64_t{0});
  Dispatch dispatch(
      std::move(batches), [](uint64_t) { return 1; }, threads_);
  const uint64_t version = local_.new_version();
  const auto handle_sums = [&](const Message& message) {
    ByteReader in(message.bytes, "mpi");
    const auto what = static_cast<Say>(in.get<uint8_t>());
    if (what == Say::kBroken)
      throw StorageError(concat("[mpi] rank ", message.from, ": ", text_of(get_block(in))));
    if (what != Say::kSums || in.get<uint64_t>() != evaluations_) return;
    const auto batch = in.get<uint64_t>();
    if (batch >= num_batches) fail("mpi", "rank ", message.from, " evaluated another batch");
    sums[batch] = get_sums(in);
    dispatch.answered(static_cast<size_t>(message.from));
  };
  work_and_talk(
      [&](size_t worker) {
        while (const auto batch = dispatch.next())
          sums[*batch] = local_.evaluate(model, version, *batch, worker);
      },
      [&] { dispatch.stop(); },
      [&](bool worked) {
        if (!announced) announce();
        announced = true;
        bool idle = true;
        for (int rank = 1; rank < communicator_.size(); ++rank) {
          while (const auto batch = dispatch.next_for(static_cast<size_t>(rank))) {
            Bytes out = begin(Say::kBatch);
            ByteWriter(out).put(*batch);
            communicator_.send(rank, std::move(out));
            idle = false;
          }
        }
        while (const auto message = communicator_.receive()) {
          handle_sums(*message);
          idle = false;
        }
        if (worked && dispatch.over()) return Talk::kDone;
        return idle ? Talk::kIdle : Talk::kBusy;
      });
  train::EvalSums total;
  for (const train::EvalSums& part : sums) total += part;
  return total;
}

}  // namespace espalier::mpi
