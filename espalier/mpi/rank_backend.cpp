#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>

#include "espalier/base/error.h"
#include "espalier/mpi/rank_messages.h"
#include "espalier/mpi/ranks.h"

// Rank 0.
namespace espalier::mpi {

void send_setup(Communicator& communicator, const std::string& text) {
  for (int rank = 1; rank < communicator.size(); ++rank)
    communicator.send(rank, say_text(Say::kSetup, text));
}

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

}  // namespace espalier::mpi
